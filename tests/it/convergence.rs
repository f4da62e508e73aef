//! Properties of planning and executing, over random stacks in the simulated world.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use stack::engine::simulated::{Fault, Simulated};
use stack::reconcile::check::check;
use stack::reconcile::controller::{Round, converge};
use stack::reconcile::desired::Desired;
use stack::reconcile::engine::{Action, Engine};
use stack::reconcile::execute::{Event, ExecuteOptions, execute};
use stack::reconcile::plan::{DestroyOptions, Plan, PlanOptions, destroy, plan};
use stack::reconcile::resource::{Config, Kind};
use stack::spec::probe::Budget;
use stack::spec::{Condition, Container, Dependency, HealthAction, NetworkMode, RestartPolicy, Stack, UpdateOrder};

use crate::stacks::{
    checked, container, declare_used, desired, image, on_network, stack, with_port, with_volume, world,
};

/// The choices that make one random container; `Shape::container` gives them a meaning.
#[derive(Clone, Debug)]
struct Shape {
    image: u8,
    replicas: u32,
    networks: u8,
    volumes: u8,
    port: Option<u16>,
    edges: Vec<u8>,
    flags: u8,
    memory: Option<u64>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let edges = proptest::collection::vec(0u8..8, 4);
    let choices = (0u8..3, 0u32..4, 0u8..4, 0u8..4, proptest::option::of(0u16..6), edges, any::<u8>());
    (choices, proptest::option::of(1u64..4)).prop_map(
        |((image, replicas, networks, volumes, port, edges, flags), memory)| Shape {
            image,
            replicas,
            networks,
            volumes,
            port,
            edges,
            flags,
            memory,
        },
    )
}

impl Shape {
    fn container(&self, others: &[Container], taken: &mut BTreeSet<u16>) -> Container {
        let mut it = image(container(), ["nginx:1.27", "nginx:1.28", "redis:8"][usize::from(self.image)]);
        it.replicas = self.replicas;
        it.resources.memory_bytes = self.memory.map(|memory| memory << 20);
        let flag = |bit: u8| self.flags & (1 << bit) != 0;
        if flag(0) {
            it = checked(it);
        }
        if flag(1) {
            it.update.order = UpdateOrder::StartFirst;
        }
        if flag(2) {
            it.restart.policy = RestartPolicy::Always;
        }
        for (index, (edge, other)) in self.edges.iter().zip(others).enumerate() {
            let condition =
                if edge & 2 != 0 && other.healthcheck.is_some() { Condition::Healthy } else { Condition::Started };
            if edge & 1 != 0 {
                let dependency = Dependency { condition, restart: edge & 4 != 0, required: true };
                it.depends_on.insert(format!("s{index}"), dependency);
            }
        }
        if flag(3)
            && flag(4)
            && !others.is_empty()
            && others[0].replicas > 0
            && others[0].network_mode == NetworkMode::Bridge
        {
            it.network_mode = NetworkMode::Service("s0".to_owned());
            it.depends_on.entry("s0".to_owned()).or_default();
            return it;
        }
        for (_, network) in ["front", "back"].iter().enumerate().filter(|(bit, _)| self.networks & (1 << bit) != 0) {
            it = on_network(it, network);
        }
        for (_, volume) in ["data", "cache"].iter().enumerate().filter(|(bit, _)| self.volumes & (1 << bit) != 0) {
            it = with_volume(it, volume);
        }
        match self.port {
            Some(port) if self.replicas == 1 && taken.insert(port) => with_port(it, 8000 + port),
            _ => it,
        }
    }
}

/// Choices for a whole stack: short to print when a case fails.
type Shapes = (Vec<Shape>, bool);

fn shapes() -> impl Strategy<Value = Shapes> {
    (proptest::collection::vec(shape(), 1..5), any::<bool>())
}

fn build((shapes, internal): &Shapes) -> Stack {
    let (mut containers, mut taken) = (Vec::new(), BTreeSet::new());
    for shape in shapes {
        let next = shape.container(&containers, &mut taken);
        containers.push(next);
    }
    let mut shop = stack([]);
    shop.containers = containers.into_iter().enumerate().map(|(index, it)| (format!("s{index}"), it)).collect();
    declare_used(&mut shop);
    if let Some(back) = shop.networks.get_mut("back") {
        back.internal = *internal;
    }
    shop
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

fn apply(world: &Arc<Simulated>, desired: &Desired) -> Vec<Round> {
    let (plan, execute) = (PlanOptions::default(), ExecuteOptions::default());
    run(converge(world, desired, &plan, &execute, &|_, _| {})).unwrap()
}

fn plan_now(world: &Arc<Simulated>, desired: &Desired) -> Plan {
    let observed = run(world.observe(&desired.stack)).unwrap();
    plan(desired, &observed, world.capabilities(), &PlanOptions::default())
}

fn assert_converged(world: &Arc<Simulated>, desired: &Desired) {
    let left = plan_now(world, desired);
    assert!(left.is_empty() && left.steps.is_empty(), "left to do:\n{}{:#?}", left.text(), left.steps);
}

/// Engine names of what is held, volumes excepted.
fn held(world: &Simulated) -> BTreeSet<(Kind, String)> {
    world.contents().into_iter().filter(|(kind, _)| *kind != Kind::Volume).collect()
}

fn declared(desired: &Desired) -> BTreeSet<(Kind, String)> {
    let names = desired.resources.iter().filter_map(|(id, it)| match &it.config {
        Config::Network(network) => Some((id.kind, network.name.clone())),
        Config::Container(container) => Some((id.kind, container.name.clone())),
        Config::Image(_) | Config::Volume(_) => None,
    });
    names.collect()
}

fn assert_succeeded(rounds: &[Round]) {
    for round in rounds {
        let failures: Vec<_> =
            round.report.failures().map(|(index, error)| (&round.plan.steps[index], error)).collect();
        assert!(failures.is_empty(), "{failures:#?}\n{}", round.plan.text());
    }
}

/// A budget goes from one container to the next, is spent, said so, and comes back with time.
#[test]
fn what_never_gets_healthy_is_made_anew_as_often_as_its_budget_allows() {
    let mut web = checked(container());
    let check = web.healthcheck.as_mut().unwrap();
    check.on_failure = HealthAction::Recreate;
    check.on_failure_budget = Some(Budget { max: 2, within_ms: Some(60_000) });
    let (world, mut shop) = (world(), stack([("web", web)]));
    let converged = |declared: &Stack| {
        let (wanted, plan_options, options) = (desired(declared), PlanOptions::default(), ExecuteOptions::default());
        let told = |_: &Plan, _: Event<'_>| ();
        run(converge(&world, &wanted, &plan_options, &options, &told)).unwrap().len()
    };
    let left = |declared: &Stack| {
        let observed = run(world.observe(&desired(declared).stack)).unwrap();
        plan(&desired(declared), &observed, world.capabilities(), &PlanOptions::default()).text()
    };
    converged(&shop);
    for _ in 0..2 {
        world.sicken("shop-web-1");
        assert!(left(&shop).contains("unhealthy"));
        assert_eq!(converged(&shop), 1);
        assert_eq!(left(&shop), "");
        world.advance(1000);
    }
    world.sicken("shop-web-1");
    let spent =
        "  note: container/web-1 is unhealthy and was made anew 2 times: its budget is spent, it is left as it is\n";
    assert_eq!((left(&shop).as_str(), converged(&shop)), (spent, 0));
    // What changes meanwhile in place forgets nothing.
    shop.containers.get_mut("web").unwrap().restart.policy = RestartPolicy::Always;
    assert_eq!(converged(&shop), 1);
    world.sicken("shop-web-1");
    assert_eq!((left(&shop).as_str(), converged(&shop)), (spent, 0));
    world.advance(60_000);
    assert_eq!(converged(&shop), 1);
    // Another declaration begins anew.
    shop.containers.get_mut("web").unwrap().hostname = Some("other".to_owned());
    assert_eq!(converged(&shop), 1);
    for _ in 0..2 {
        world.sicken("shop-web-1");
        assert_eq!(converged(&shop), 1);
    }
    world.sicken("shop-web-1");
    assert_eq!((left(&shop).as_str(), converged(&shop)), (spent, 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_applied_needs_nothing_more(before in shapes(), after in shapes()) {
        let (before, after) = (build(&before), build(&after));
        let world = world();
        for shop in [&before, &after] {
            let desired = desired(shop);
            assert_succeeded(&apply(&world, &desired));
            assert_converged(&world, &desired);
            prop_assert_eq!(held(&world), declared(&desired));
        }
    }

    #[test]
    fn plans_pass_their_own_checks_and_never_remove_volumes(before in shapes(), after in shapes()) {
        let (before, after) = (build(&before), build(&after));
        let world = world();
        apply(&world, &desired(&before));
        let volumes = || world.contents().into_iter().filter(|(kind, _)| *kind == Kind::Volume).count();
        let had = volumes();
        let plan = plan_now(&world, &desired(&after));
        prop_assert_eq!(check(&plan), vec![]);
        apply(&world, &desired(&after));
        prop_assert!(volumes() >= had);
    }

    #[test]
    fn destroying_leaves_an_empty_world(shop in shapes()) {
        let shop = build(&shop);
        let world = world();
        let desired = desired(&shop);
        apply(&world, &desired);
        let observed = run(world.observe(&desired.stack)).unwrap();
        let plan = destroy(&desired.stack, &observed, DestroyOptions { volumes: true, consent_volumes: true });
        let report = run(execute(&world, &plan, &ExecuteOptions::default(), &|_| {}));
        prop_assert!(report.succeeded(), "{report:#?}");
        prop_assert_eq!(world.contents(), vec![]);
    }

    #[test]
    fn steps_keep_their_order_and_their_number(before in shapes(), after in shapes(), parallel in 1usize..5) {
        let (before, after) = (build(&before), build(&after));
        let world = world();
        apply(&world, &desired(&before));
        let plan = plan_now(&world, &desired(&after));
        let closed: Mutex<BTreeSet<usize>> = Mutex::default();
        let options = ExecuteOptions { parallel, ..ExecuteOptions::default() };
        let report = run(execute(&world, &plan, &options, &|event| match event {
            Event::Started { step, .. } => {
                let closed = closed.lock().unwrap();
                assert!(step.after.iter().all(|after| closed.contains(&after.step)));
            }
            Event::Finished { index, .. } | Event::Failed { index, .. } | Event::Skipped { index, .. } => {
                assert!(closed.lock().unwrap().insert(index));
            }
        }));
        prop_assert!(report.succeeded());
        prop_assert!(world.max_in_flight() <= parallel.max(ExecuteOptions::default().parallel));
    }

    #[test]
    fn a_limit_touches_its_own_containers_in_place(shop in shapes(), which in any::<prop::sample::Index>()) {
        let shop = build(&shop);
        let world = world();
        apply(&world, &desired(&shop));
        let mut changed = shop.clone();
        let name = which.get(&shop.containers.keys().collect::<Vec<_>>()).to_string();
        changed.containers.get_mut(&name).unwrap().resources.memory_bytes = Some(9 << 20);
        let plan = plan_now(&world, &desired(&changed));
        let updates = plan.steps.iter().all(|step| matches!(&step.action, Action::Update { id, .. } if id.name.starts_with(&name)));
        prop_assert!(updates, "{}", plan.text());
        prop_assert_eq!(plan.steps.len() as u32, shop.containers[&name].replicas);
    }

    #[test]
    fn an_image_touches_what_depends_on_it_and_nothing_else(shop in shapes(), which in any::<prop::sample::Index>()) {
        let shop = build(&shop);
        let world = world();
        apply(&world, &desired(&shop));
        let mut changed = shop.clone();
        let name = which.get(&shop.containers.keys().collect::<Vec<_>>()).to_string();
        let new = image(changed.containers[&name].clone(), "nginx:2");
        changed.containers.insert(name.clone(), new);
        let may = followers(&shop, &name);
        let plan = plan_now(&world, &desired(&changed));
        for entry in plan.entries.iter().filter(|entry| entry.id.kind != Kind::Image) {
            prop_assert_eq!(entry.id.kind, Kind::Container);
            let service = entry.id.name.rsplit_once('-').unwrap().0;
            prop_assert!(may.contains(service), "{}", plan.text());
        }
    }
}

/// The service and those that restart with it.
fn followers(shop: &Stack, name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::from([name.to_owned()]);
    loop {
        let more: Vec<String> = shop
            .containers
            .iter()
            .filter(|(other, it)| {
                let restarts = it.depends_on.iter().any(|(on, edge)| edge.restart && found.contains(on));
                let shares = matches!(&it.network_mode, NetworkMode::Service(on) if found.contains(on));
                (restarts || shares) && !found.contains(*other)
            })
            .map(|(other, _)| other.clone())
            .collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_kill_point_converges(before in shapes(), after in shapes()) {
        let (before, after) = (build(&before), build(&after));
        let (before, after) = (desired(&before), desired(&after));
        let whole = world();
        apply(&whole, &before);
        let first = whole.performed();
        apply(&whole, &after);
        let steps = whole.performed() - first;
        for nth in 0..steps {
            for fault in [Fault::Fail, Fault::CrashBefore, Fault::CrashHalf, Fault::CrashAfter] {
                let world = world();
                apply(&world, &before);
                world.fault(nth, fault);
                apply(&world, &after);
                world.revive();
                assert_succeeded(&apply(&world, &after));
                assert_converged(&world, &after);
                prop_assert_eq!(held(&world), declared(&after));
            }
        }
    }
}
