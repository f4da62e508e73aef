//! Golden plans: a stack as it was applied, the stack as it is declared now, and the plan between them.

use expect_test::{Expect, expect};
use stack::reconcile::engine::{Health, Observed, Phase, RunState, StackName};
use stack::reconcile::plan::{DestroyOptions, Plan, PlanOptions, boot, describe, destroy, halt, plan};
use stack::reconcile::resource::{Config, ImageSource, Kind, ResourceId};
use stack::spec::{Condition, Image, NetworkMode, RestartPolicy, Stack, UpdateOrder};

use crate::stacks::{
    applied, capabilities, checked, container, desired, image, needs, on_network, replicas, restarts_with, stack, with,
    with_port, with_volume,
};

fn check_plan(observed: &Observed, declared: &Stack, options: &PlanOptions, expected: &Expect) {
    expected.assert_eq(&plan(&desired(declared), observed, &capabilities(), options).text());
}

fn check(before: Option<&Stack>, after: &Stack, expected: &Expect) {
    let observed = before.map(applied).unwrap_or_default();
    check_plan(&observed, after, &PlanOptions::default(), expected);
}

/// The steps, each with the numbers of those it waits for; `(n)` where it only comes later.
fn steps(observed: &Observed, declared: &Stack, options: &PlanOptions) -> String {
    numbered(&plan(&desired(declared), observed, &capabilities(), options))
}

fn numbered(plan: &Plan) -> String {
    let steps = plan.steps.iter().enumerate().map(|(index, step)| {
        let after =
            step.after.iter().map(|it| if it.required { it.step.to_string() } else { format!("({})", it.step) });
        let after: Vec<String> = after.collect();
        format!("{index} {} <- {}", describe(&step.action), after.join(" ")).trim_end_matches(" <- ").to_owned() + "\n"
    });
    steps.collect()
}

fn container_mut<'a>(observed: &'a mut Observed, name: &str) -> &'a mut stack::reconcile::engine::ObservedResource {
    observed.resources.get_mut(&ResourceId::new(Kind::Container, name)).unwrap()
}

#[test]
fn a_first_apply_makes_everything_in_order() {
    let db = checked(with_volume(on_network(image(container(), "postgres:17"), "back"), "data"));
    let web = needs(with_port(on_network(container(), "back"), 8080), "db", Condition::Healthy);
    let shop = stack([("db", db), ("web", replicas(web, 1))]);
    check(
        None,
        &shop,
        &expect![[r#"
        + image/nginx:1.27     pull                                            not found
        + image/postgres:17    pull                                            not found
        + network/back         create                                          not found
        + volume/data          create                                          not found
        + container/db-1       create                                          not found                        after image/postgres:17, network/back, volume/data
        + container/web-1      create                                          not found                        after image/nginx:1.27, network/back, container/db-1 healthy
    "#]],
    );
    expect![[r#"
        0 pull image/nginx:1.27
        1 pull image/postgres:17
        2 create network/back
        3 create volume/data
        4 create container/db-1 <- 1 2 3
        5 start container/db-1 <- 1 2 3 4
        6 check ports of container/web-1
        7 create container/web-1 <- 0 2 6
        8 wait for container/db-1 healthy <- 5
        9 start container/web-1 <- 0 2 6 7 8
    "#]]
    .assert_eq(&steps(&Observed::default(), &shop, &PlanOptions::default()));
}

#[test]
fn a_converged_stack_has_an_empty_plan() {
    let shop = stack([("db", with_volume(container(), "data")), ("web", on_network(container(), "back"))]);
    check(Some(&shop), &shop, &expect![[""]]);
}

#[test]
fn what_the_kernel_can_change_changes_in_place() {
    let before = stack([("web", container())]);
    let after = with(container(), |it| {
        it.restart.policy = RestartPolicy::Always;
        it.resources.memory_bytes = Some(64 << 20);
        it.labels.insert("a".into(), "b".into());
    });
    check(
        Some(&before),
        &stack([("web", after)]),
        &expect![[r#"
        ~ container/web-1      update in place   labels.a: (none) -> b
                                                 resources.memory: (none) -> 67108864
                                                 restart: no -> always
    "#]],
    );
    let policy = |policy| stack([("web", with(container(), |it| it.restart.policy = policy))]);
    check(
        Some(&policy(RestartPolicy::OnFailure { max_retries: Some(2) })),
        &policy(RestartPolicy::OnFailure { max_retries: None }),
        &expect![[r#"
        ~ container/web-1      update in place   restart.on-failure.max_retries: 2 -> (none)
    "#]],
    );
    check(
        Some(&policy(RestartPolicy::OnFailure { max_retries: Some(2) })),
        &policy(RestartPolicy::Always),
        &expect![[r#"
        ~ container/web-1      update in place   restart: on-failure:2 -> always
    "#]],
    );
}

#[test]
fn a_network_is_joined_and_left_in_place() {
    let before = stack([("web", on_network(on_network(container(), "front"), "old"))]);
    let after = stack([("web", on_network(on_network(container(), "front"), "new"))]);
    let observed = applied(&before);
    check_plan(
        &observed,
        &after,
        &PlanOptions::default(),
        &expect![[r#"
            + network/new          create                                          not found
            - network/old          remove                                          no longer declared
            ~ container/web-1      update in place   network shop_new: joined                                       after network/new
                                                     network shop_old: left
        "#]],
    );
    expect![[r#"
        0 create network/new
        1 update container/web-1 <- 0
        2 remove network/old <- 1
    "#]]
    .assert_eq(&steps(&observed, &after, &PlanOptions::default()));
    // Interfaces are numbered once.
    let second = with(on_network(container(), "front"), |it| it.networks.get_mut("front").unwrap().priority = 1);
    check(
        Some(&stack([("web", on_network(container(), "front"))])),
        &stack([("web", second)]),
        &expect![[r#"
            ± container/web-1      replace           networks.shop_front.priority: 0 -> 1                           stop first
        "#]],
    );
}

/// What lives in a container's network stays there when that is made anew, unless another user namespace has another one.
#[test]
fn who_lives_in_the_network_of_another_stays_where_that_stays() {
    let guest = with(container(), |it| it.network_mode = NetworkMode::Service("vpn".into()));
    let shop = |change: fn(&mut stack::spec::Container)| {
        stack([("guest", guest.clone()), ("vpn", with(on_network(container(), "front"), change))])
    };
    let observed = applied(&shop(|_| ()));
    let options = PlanOptions::default();
    check_plan(
        &observed,
        &shop(|it| it.image.reference = "nginx:1.28".into()),
        &options,
        &expect![[r#"
        + image/nginx:1.28     pull                                            not found
        ± container/vpn-1      replace           image: nginx:1.27 -> nginx:1.28                                stop first, after image/nginx:1.28
    "#]],
    );
    let after = shop(|it| drop(it.environment.insert("A".into(), "b".into())));
    expect![[r#"
        0 check program of container/vpn-1
        1 stop container/vpn-1 <- 0
        2 remove container/vpn-1 <- 1
        3 create container/vpn-1 <- 0 2
        4 start container/vpn-1 <- 0 3
    "#]]
    .assert_eq(&steps(&observed, &after, &options));
    check_plan(
        &observed,
        &shop(|it| it.privileged = true),
        &options,
        &expect![[r#"
        ~ container/guest-1    restart                                         container/vpn-1 is restarted     after container/vpn-1
        ± container/vpn-1      replace           privileged: false -> true                                      stop first
    "#]],
    );
    check_plan(
        &observed,
        &shop(|it| it.hostname = Some("other".into())),
        &options,
        &expect![[r#"
        ~ container/guest-1    restart                                         container/vpn-1 is restarted     after container/vpn-1
        ± container/vpn-1      replace           hostname: (none) -> other                                      stop first
    "#]],
    );
    // The namespace went with a container that somebody removed.
    let mut without = observed.clone();
    without.resources.remove(&ResourceId::new(Kind::Container, "vpn-1"));
    check_plan(
        &without,
        &shop(|_| ()),
        &options,
        &expect![[r#"
        ~ container/guest-1    restart                                         container/vpn-1 is made anew     after container/vpn-1
        + container/vpn-1      create                                          not found
    "#]],
    );
    // What was begun is finished.
    let mut half = observed;
    container_mut(&mut half, "vpn-1").phase = Phase::Creating;
    container_mut(&mut half, "vpn-1").run = Some(RunState::Created);
    check_plan(
        &half,
        &shop(|_| ()),
        &options,
        &expect![[r#"
        + container/vpn-1      create                                          half made
    "#]],
    );
}

/// Two that exchange their addresses can't both be told while they run.
#[test]
fn an_address_changes_in_place_unless_another_has_it() {
    let at = |address: &str| {
        with(on_network(container(), "back"), |it| {
            it.networks.get_mut("back").unwrap().ipv4_address = Some(address.parse().unwrap());
        })
    };
    let before = stack([("db", at("10.1.0.5")), ("web", at("10.1.0.6"))]);
    let free = stack([("db", at("10.1.0.7")), ("web", at("10.1.0.6"))]);
    check(
        Some(&before),
        &free,
        &expect![[r#"
            ~ container/db-1       update in place   networks.shop_back.ipv4_address: 10.1.0.5 -> 10.1.0.7
        "#]],
    );
    let exchanged = stack([("db", at("10.1.0.6")), ("web", at("10.1.0.5"))]);
    let observed = applied(&before);
    check_plan(
        &observed,
        &exchanged,
        &PlanOptions::default(),
        &expect![[r#"
            ± container/db-1       replace           networks.shop_back.ipv4_address: 10.1.0.5 -> 10.1.0.6          stop first, after container/web-1 stopped
            ± container/web-1      replace           networks.shop_back.ipv4_address: 10.1.0.6 -> 10.1.0.5          stop first, after container/db-1 stopped
        "#]],
    );
}

#[test]
fn a_new_image_replaces_and_stops_first_for_the_port() {
    let before = stack([("web", with_port(container(), 80))]);
    let after = stack([("web", with_port(image(container(), "nginx:1.28"), 80))]);
    check(
        Some(&before),
        &after,
        &expect![[r#"
        + image/nginx:1.28     pull                                            not found
        ± container/web-1      replace           image: nginx:1.27 -> nginx:1.28                                stop first (port 80), after image/nginx:1.28
    "#]],
    );
    expect![[r#"
        0 pull image/nginx:1.28
        1 check ports of container/web-1
        2 check program of container/web-1 <- 0
        3 stop container/web-1 <- 0 1 2
        4 remove container/web-1 <- 3
        5 create container/web-1 <- 0 1 2 4
        6 start container/web-1 <- 0 1 2 5
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
}

#[test]
fn start_first_runs_both_for_a_moment() {
    let start_first = |it: stack::spec::Container| with(it, |it| it.update.order = UpdateOrder::StartFirst);
    let before = stack([("web", start_first(container()))]);
    let after = stack([("web", start_first(image(container(), "nginx:1.28")))]);
    check(
        Some(&before),
        &after,
        &expect![[r#"
        + image/nginx:1.28     pull                                            not found
        ± container/web-1      replace           image: nginx:1.27 -> nginx:1.28                                start first, after image/nginx:1.28
    "#]],
    );
    expect![[r#"
        0 pull image/nginx:1.28
        1 check program of container/web-1 <- 0
        2 rename container/web-1 to shop-web-1.old <- 0 1
        3 create container/web-1 <- 0 1 2
        4 start container/web-1 <- 0 1 3
        5 wait for container/web-1 healthy <- 4
        6 stop container/web-1.old <- 4 5
        7 remove container/web-1.old <- 6
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
    let (before, after) = ([before, after]).map(|it| with_port(it.containers["web"].clone(), 80)).into();
    check(
        Some(&stack([("web", before)])),
        &stack([("web", after)]),
        &expect![[r#"
            + image/nginx:1.28     pull                                            not found
            ± container/web-1      replace           image: nginx:1.27 -> nginx:1.28                                stop first, not start first (port 80), after image/nginx:1.28
        "#]],
    );
}

#[test]
fn replicas_give_way_one_after_another() {
    let before = stack([("web", checked(replicas(container(), 3)))]);
    let after = stack([("web", checked(replicas(image(container(), "nginx:1.28"), 3)))]);
    expect![[r#"
        0 pull image/nginx:1.28
        1 check program of container/web-1 <- 0
        2 check program of container/web-2 <- 0
        3 check program of container/web-3 <- 0
        4 stop container/web-1 <- 0 1 (2) (3)
        5 remove container/web-1 <- 4
        6 create container/web-1 <- 0 1 5
        7 start container/web-1 <- 0 1 6
        8 wait for container/web-1 healthy <- 7
        9 stop container/web-2 <- 0 (1) 2 (3) 8
        10 remove container/web-2 <- 9
        11 create container/web-2 <- 0 2 10
        12 start container/web-2 <- 0 2 11
        13 wait for container/web-2 healthy <- 12
        14 stop container/web-3 <- 0 (1) (2) 3 13
        15 remove container/web-3 <- 14
        16 create container/web-3 <- 0 3 15
        17 start container/web-3 <- 0 3 16
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
}

#[test]
fn scaling_down_removes_the_last_replicas() {
    let before = stack([("web", replicas(container(), 3))]);
    check(
        Some(&before),
        &stack([("web", container())]),
        &expect![[r#"
        - container/web-2      remove                                          no longer declared
        - container/web-3      remove                                          no longer declared
    "#]],
    );
}

#[test]
fn what_is_no_longer_declared_goes_but_volumes_stay() {
    let db = with_volume(on_network(container(), "back"), "data");
    let web = needs(on_network(container(), "back"), "db", Condition::Started);
    let before = stack([("db", db), ("web", web)]);
    let after = stack([("other", container())]);
    check(
        Some(&before),
        &after,
        &expect![[r#"
        - network/back         remove                                          no longer declared
        - container/db-1       remove                                          no longer declared
        + container/other-1    create                                          not found
        - container/web-1      remove                                          no longer declared
    "#]],
    );
    expect![[r#"
        0 check program of container/other-1
        1 create container/other-1 <- 0
        2 start container/other-1 <- 0 1
        3 stop container/web-1 <- (0)
        4 stop container/db-1 <- (0) (3)
        5 remove container/db-1 <- 4
        6 remove container/web-1 <- 3
        7 remove network/back <- (0) 5 6
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
}

#[test]
fn a_network_that_changes_takes_its_containers_along() {
    let before = stack([("web", on_network(container(), "back")), ("db", container())]);
    let mut after = before.clone();
    after.networks.get_mut("back").unwrap().internal = true;
    check(
        Some(&before),
        &after,
        &expect![[r#"
        ± network/back         replace           internal: false -> true
        ± container/web-1      replace                                         network/back is replaced         stop first, after network/back
    "#]],
    );
    expect![[r#"
        0 check program of container/web-1
        1 stop container/web-1 <- 0
        2 remove container/web-1 <- 1
        3 remove network/back <- (0) 2
        4 create network/back <- 3
        5 create container/web-1 <- 0 2 4
        6 start container/web-1 <- 0 4 5
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
}

#[test]
fn data_is_lost_only_with_consent_and_never_when_protected() {
    let before = stack([("db", with_volume(container(), "data"))]);
    let mut after = before.clone();
    after.volumes.get_mut("data").unwrap().driver_opts.insert("size".into(), "2g".into());
    check(
        Some(&before),
        &after,
        &expect![[r#"
        ! volume/data          replace           driver_opts.size: (none) -> 2g  refused: data would be lost
    "#]],
    );
    let consent = PlanOptions { consent_volumes: true, ..PlanOptions::default() };
    check_plan(
        &applied(&before),
        &after,
        &consent,
        &expect![[r#"
        ± volume/data          replace           driver_opts.size: (none) -> 2g  data is lost
        ± container/db-1       replace                                         volume/data is replaced          stop first, after volume/data
    "#]],
    );
    after.volumes.get_mut("data").unwrap().protect = true;
    check_plan(
        &applied(&before),
        &after,
        &consent,
        &expect![[r#"
        ! volume/data          replace           driver_opts.size: (none) -> 2g  refused: the volume is protected
                                                 protect: false -> true
    "#]],
    );
}

#[test]
fn dependents_restart_only_where_they_ask_for_it() {
    let edge = |db: &str| {
        let a = needs(container(), "db", Condition::Started);
        let b = restarts_with(container(), "db");
        let c = with(needs(container(), "db", Condition::Started), |it| {
            it.network_mode = NetworkMode::Service("db".into());
        });
        stack([("db", image(container(), db)), ("plain", a), ("restarts", b), ("shares", c)])
    };
    check(
        Some(&edge("postgres:16")),
        &edge("postgres:17"),
        &expect![[r#"
            + image/postgres:17     pull                                            not found
            ± container/db-1        replace           image: postgres:16 -> postgres:17                              stop first, after image/postgres:17
            ~ container/restarts-1  restart                                         container/db-1 is restarted      after container/db-1
        "#]],
    );
    expect![[r#"
        0 pull image/postgres:17
        1 check program of container/db-1 <- 0
        2 stop container/restarts-1 <- 0 1
        3 stop container/db-1 <- 0 1 (2)
        4 remove container/db-1 <- 3
        5 create container/db-1 <- 0 1 4
        6 start container/db-1 <- 0 1 5
        7 start container/restarts-1 <- 2 6
    "#]]
    .assert_eq(&steps(&applied(&edge("postgres:16")), &edge("postgres:17"), &PlanOptions::default()));
}

#[test]
fn stopped_containers_start_unless_their_work_is_done() {
    let always = || with(container(), |it| it.restart.policy = RestartPolicy::Always);
    let shop = stack([("done", container()), ("failed", container()), ("ended", always()), ("held", always())]);
    let mut observed = applied(&shop);
    let exit = |code, by_hand| Some(RunState::Exited { code, by_hand });
    container_mut(&mut observed, "done-1").run = exit(0, false);
    container_mut(&mut observed, "failed-1").run = exit(3, false);
    container_mut(&mut observed, "ended-1").run = exit(0, false);
    container_mut(&mut observed, "held-1").run = exit(143, true);
    check_plan(
        &observed,
        &shop,
        &PlanOptions::default(),
        &expect![[r#"
        ~ container/ended-1    start                                           exited with 0
        ~ container/failed-1   start                                           exited with 3
        ~ container/held-1     start                                           stopped by hand
    "#]],
    );
    let keep = PlanOptions { keep_stopped: true, ..PlanOptions::default() };
    check_plan(
        &observed,
        &shop,
        &keep,
        &expect![[r#"
        ~ container/ended-1    start                                           exited with 0
        ~ container/failed-1   start                                           exited with 3
    "#]],
    );
}

/// Starts are those of dockerd's own start, with the jobs that they need; what else is found, or declared by now, is left.
#[test]
fn a_boot_brings_back_what_ran_in_its_order() {
    let policy = |policy| move |it: &mut stack::spec::Container| it.restart.policy = policy;
    let always = || with(container(), policy(RestartPolicy::Always));
    let unless_stopped = || with(container(), policy(RestartPolicy::UnlessStopped));
    let on_failure = || with(container(), policy(RestartPolicy::OnFailure { max_retries: None }));
    let needs_optional = with(needs(always(), "held", Condition::Healthy), |it| {
        it.depends_on.get_mut("held").unwrap().required = false;
    });
    let shop = stack([
        ("cut", container()),
        ("db", checked(on_network(always(), "back"))),
        ("done", on_failure()),
        ("held", unless_stopped()),
        ("job", container()),
        ("mail", needs_optional),
        ("once", on_failure()),
        ("waits", needs(unless_stopped(), "held", Condition::Healthy)),
        ("web", needs(needs(unless_stopped(), "db", Condition::Healthy), "job", Condition::CompletedSuccessfully)),
    ]);
    let mut observed = applied(&shop);
    for found in observed.resources.values_mut() {
        found.run = found.run.as_ref().map(|_| RunState::Interrupted);
    }
    container_mut(&mut observed, "db-1").run = Some(RunState::Exited { code: 143, by_hand: true });
    container_mut(&mut observed, "held-1").run = Some(RunState::Exited { code: 143, by_hand: true });
    container_mut(&mut observed, "done-1").run = Some(RunState::Exited { code: 0, by_hand: false });
    container_mut(&mut observed, "once-1").run = Some(RunState::Created);
    observed.digests.values_mut().for_each(|digest| *digest = "sha256:moved".to_owned());
    let name = StackName::new("shop").unwrap();
    let plan = boot(&name, &observed, &capabilities());
    expect![[r#"
        ~ container/db-1       start                                           stopped by hand
        ~ container/job-1      start                                           was interrupted
        ~ container/mail-1     start                                           was interrupted
        ~ container/once-1     start                                           never started
        ~ container/waits-1    start                                           was interrupted
        ~ container/web-1      start                                           was interrupted                  after container/db-1 healthy, container/job-1 completed
    "#]]
    .assert_eq(&plan.text());

    for found in observed.resources.values_mut() {
        found.run = found.run.as_ref().map(|_| RunState::Running { health: Health::Healthy });
    }
    assert!(boot(&name, &observed, &capabilities()).is_empty());
    let halt = halt(&name, &observed);
    expect![[r#"
        0 stop container/cut-1
        1 stop container/done-1
        2 stop container/mail-1
        3 stop container/once-1
        4 stop container/waits-1
        5 stop container/held-1 <- (2) (4)
        6 stop container/web-1
        7 stop container/db-1 <- (6)
        8 stop container/job-1 <- (6)
    "#]]
    .assert_eq(&numbered(&halt));
}

#[test]
fn half_made_things_are_finished_or_made_anew() {
    let before = stack([("a", container()), ("b", on_network(container(), "back"))]);
    let mut observed = applied(&before);
    for found in observed.resources.values_mut() {
        found.phase = Phase::Creating;
        found.run = found.run.as_ref().map(|_| RunState::Created);
    }
    let after = stack([("a", image(container(), "nginx:1.28")), ("b", on_network(container(), "back"))]);
    check_plan(
        &observed,
        &after,
        &PlanOptions::default(),
        &expect![[r#"
        + image/nginx:1.28     pull                                            not found
        + network/back         create                                          half made
        ± container/a-1        replace           image: nginx:1.27 -> nginx:1.28  half made                     stop first, after image/nginx:1.28
        + container/b-1        create                                          half made                        after network/back
    "#]],
    );
}

#[test]
fn what_the_host_lost_is_repaired() {
    let shop = stack([("web", on_network(container(), "back"))]);
    let mut observed = applied(&shop);
    for found in observed.resources.values_mut() {
        found.drift.push("link gone".into());
    }
    check_plan(
        &observed,
        &shop,
        &PlanOptions::default(),
        &expect![[r#"
        ~ network/back         repair                                          link gone
        ~ container/web-1      repair                                          link gone
    "#]],
    );
    expect![[r#"
        0 repair network/back
        1 repair container/web-1 <- 0
    "#]]
    .assert_eq(&steps(&observed, &shop, &PlanOptions::default()));
}

#[test]
fn an_image_that_moved_replaces_its_containers() {
    let shop = stack([("web", container())]);
    let mut observed = applied(&shop);
    observed.digests.insert("nginx:1.27".into(), "sha256:0123456789abcdef0123".into());
    check_plan(
        &observed,
        &shop,
        &PlanOptions::default(),
        &expect![[r#"
        ± container/web-1      replace           image_digest: sha256:cd4495bb73de -> sha256:0123456789ab  tag moved  stop first
    "#]],
    );
}

#[test]
fn pull_policies_are_kept() {
    let policy = |policy| stack([("web", with(container(), |it| it.pull_policy = policy))]);
    let refresh = PlanOptions { refresh: true, ..PlanOptions::default() };
    let always = policy(stack::spec::PullPolicy::Always);
    check_plan(
        &applied(&always),
        &always,
        &refresh,
        &expect![[r#"
        + image/nginx:1.27     pull                                            pull_policy: always
    "#]],
    );
    check_plan(&applied(&always), &always, &PlanOptions::default(), &expect![[""]]);
    check(
        None,
        &policy(stack::spec::PullPolicy::Never),
        &expect![[r#"
            + container/web-1      create                                          not found
            ! image/nginx:1.27     pull                                            refused: not in the store, and pull_policy is never
        "#]],
    );
}

#[test]
fn secrets_are_not_shown() {
    let password = |value: &str| {
        stack([(
            "db",
            with(container(), |it| {
                it.environment.insert("POSTGRES_PASSWORD".into(), value.into());
                it.environment.insert("POSTGRES_USER".into(), value.into());
            }),
        )])
    };
    check(
        Some(&password("one")),
        &password("two"),
        &expect![[r#"
        ± container/db-1       replace           environment.POSTGRES_PASSWORD: (hidden) -> (hidden)            stop first
                                                 environment.POSTGRES_USER: one -> two
    "#]],
    );
}

#[test]
fn ports_pass_from_one_container_to_another() {
    let before = stack([("a", with_port(container(), 80)), ("b", with_port(container(), 81))]);
    let after = stack([("a", with_port(container(), 81)), ("b", with_port(container(), 80))]);
    check(
        Some(&before),
        &after,
        &expect![[r#"
        ± container/a-1        replace           ports: 80:80/tcp -> 81:80/tcp                                  stop first (port 81), after container/b-1 stopped
        ± container/b-1        replace           ports: 81:80/tcp -> 80:80/tcp                                  stop first (port 80), after container/a-1 stopped
    "#]],
    );
    expect![[r#"
        0 check ports of container/a-1
        1 check program of container/a-1
        2 check ports of container/b-1
        3 check program of container/b-1
        4 stop container/a-1 <- 0 1 (2) (3)
        5 remove container/a-1 <- 4
        6 create container/a-1 <- 0 1 5
        7 stop container/b-1 <- (0) (1) 2 3
        8 start container/a-1 <- 0 1 6 7
        9 remove container/b-1 <- 7
        10 create container/b-1 <- 2 3 9
        11 start container/b-1 <- 2 3 4 10
    "#]]
    .assert_eq(&steps(&applied(&before), &after, &PlanOptions::default()));
}

#[test]
fn waiting_is_a_step() {
    let job = container();
    let web = needs(checked(container()), "job", Condition::CompletedSuccessfully);
    let shop = stack([("job", job), ("web", web)]);
    let wait = PlanOptions { wait: true, ..PlanOptions::default() };
    expect![[r#"
        0 pull image/nginx:1.27
        1 create container/job-1 <- 0
        2 start container/job-1 <- 0 1
        3 create container/web-1 <- 0
        4 wait for container/job-1 completed <- 2
        5 start container/web-1 <- 0 3 4
        6 wait for container/web-1 healthy <- 5
    "#]]
    .assert_eq(&steps(&Observed::default(), &shop, &wait));
}

#[test]
fn destroying_leaves_volumes_unless_told() {
    let db = with_volume(on_network(container(), "back"), "data");
    let web = needs(on_network(container(), "back"), "db", Condition::Started);
    let observed = applied(&stack([("db", db), ("web", web)]));
    let name = StackName::new("shop").unwrap();
    let text = |options| destroy(&name, &observed, options).text();
    expect![[r#"
        - network/back         remove
        - container/db-1       remove
        - container/web-1      remove
    "#]]
    .assert_eq(&text(DestroyOptions::default()));
    expect![[r#"
        - network/back         remove
        - container/db-1       remove
        - container/web-1      remove
        ! volume/data          remove                                          refused: data would be lost
    "#]]
    .assert_eq(&text(DestroyOptions { volumes: true, consent_volumes: false }));
    expect![[r#"
        - network/back         remove
        - volume/data          remove                                          data is lost
        - container/db-1       remove
        - container/web-1      remove
    "#]]
    .assert_eq(&text(DestroyOptions { volumes: true, consent_volumes: true }));
}

#[test]
fn long_names_widen_the_first_column() {
    let name = "a-service-with-quite-a-long-name";
    check(
        None,
        &stack([(name, container())]),
        &expect![[r#"
        + image/nginx:1.27                              pull                                            not found
        + container/a-service-with-quite-a-long-name-1  create                                          not found                        after image/nginx:1.27
    "#]],
    );
}

#[test]
fn summaries_count_resources() {
    let before = stack([("a", container()), ("b", container())]);
    let after = stack([("a", image(container(), "nginx:1.28")), ("c", container())]);
    let summary = plan(&desired(&after), &applied(&before), &capabilities(), &PlanOptions::default()).summary();
    expect!["1 to pull, 1 to create, 1 to replace, 1 to remove"].assert_eq(&summary.to_string());
}

#[test]
fn the_text_form_is_the_documented_one() {
    let db = on_network(container(), "backend");
    let web = with(with_volume(with_port(replicas(image(container(), "nginx:1.28"), 2), 80), "data"), |it| {
        it.restart.policy = RestartPolicy::Always;
        it.ports[0].published = Some(stack::spec::PortRange { start: 79, end: 80 });
    });
    let mut shop = stack([("db", image(db, "postgres:17")), ("web", web)]);
    let mut observed = applied(&shop);
    shop.volumes.get_mut("data").unwrap().driver_opts.insert("size".into(), "2g".into());
    observed.resources.retain(|id, _| id.name != "backend" && id.name != "db-1");
    let found = |name: &str, observed: &mut Observed, change: &dyn Fn(&mut Config)| {
        change(
            &mut observed
                .resources
                .values_mut()
                .find(|it| {
                    matches!(&it.config,
            Config::Container(it) if it.name == name)
                        || matches!(&it.config, Config::Volume(it) if it.name == name)
                })
                .unwrap()
                .config,
        );
    };
    found("shop-web-1", &mut observed, &|it| {
        let Config::Container(it) = it else { return };
        it.restart = stack::reconcile::resource::Restart::No;
    });
    found("shop-web-2", &mut observed, &|it| {
        let Config::Container(it) = it else { return };
        it.image = "nginx:1.27".into();
        it.image_digest.clear();
    });
    found("shop_data", &mut observed, &|it| {
        let Config::Volume(it) = it else { return };
        it.driver_opts.insert("size".into(), "1g".into());
    });
    check_plan(
        &observed,
        &shop,
        &PlanOptions::default(),
        &expect![[r#"
        + network/backend      create                                          not found
        + container/db-1       create                                          not found                        after network/backend
        ~ container/web-1      update in place   restart: no -> always
        ± container/web-2      replace           image: nginx:1.27 -> nginx:1.28                                stop first (port 80)
        ! volume/data          replace           driver_opts.size: 1g -> 2g    refused: data would be lost
    "#]],
    );
}

#[test]
fn what_gave_way_goes_when_its_successor_runs() {
    let shop = stack([("web", container())]);
    let mut observed = applied(&shop);
    let mut found = observed.resources.remove(&ResourceId::new(Kind::Container, "web-1")).unwrap();
    if let Config::Container(it) = &mut found.config {
        it.name = "shop-web-1.old".into();
        observed.resources.insert(it.id(), found.clone());
    }
    check_plan(
        &observed,
        &shop,
        &PlanOptions::default(),
        &expect![[r#"
        + container/web-1      create                                          not found
        - container/web-1.old  remove                                          gave way to its successor
    "#]],
    );
    expect![[r#"
        0 check program of container/web-1
        1 create container/web-1 <- 0
        2 start container/web-1 <- 0 1
        3 wait for container/web-1 healthy <- 2
        4 stop container/web-1.old <- (0) 3
        5 remove container/web-1.old <- 4
    "#]]
    .assert_eq(&steps(&observed, &shop, &PlanOptions::default()));
}

/// Its content is known, the image's is not before it is loaded; whatever runs from it is replaced in the same plan.
#[test]
fn a_changed_archive_replaces_what_runs_from_it() {
    let source = stack::spec::ImageSource::Archive("/app.tar".into());
    let app = with(container(), |it| it.image = Image { reference: "shop-app".into(), source });
    let shop = stack([("app", app), ("web", container())]);
    let with_content = |content: char| {
        let mut wanted = desired(&shop);
        for (image, _) in wanted.images_mut() {
            if let ImageSource::Archive(archive) = &mut image.source {
                archive.digest = format!("sha256:{}", content.to_string().repeat(64));
            }
        }
        wanted
    };
    let mut observed = applied(&shop);
    let id = ResourceId::new(Kind::Image, "shop-app");
    if let Config::Image(image) = &with_content('a').resources[&id].config {
        observed.made.insert("shop-app".to_owned(), image.clone());
    }
    let plan = |content| plan(&with_content(content), &observed, &capabilities(), &PlanOptions::default()).text();
    assert_eq!(plan('a'), "");
    expect![[r#"
        ~ image/shop-app       load              archive changed (sha256:aaaaaaaaaaaa -> sha256:bbbbbbbbbbbb)
        ± container/app-1      replace           image_digest: sha256:88ce4c875562 -> known when it is loaded   stop first, after image/shop-app
    "#]]
    .assert_eq(&plan('b'));
}
