//! Tables of what is read, and golden texts of what is said.

use expect_test::{Expect, expect};

use super::*;

fn good(text: &str) -> Dockerfile {
    parse("Dockerfile", text).unwrap_or_else(|found| panic!("{found}"))
}

/// The instructions of the only stage.
fn kinds(text: &str) -> Vec<Kind> {
    let file = good(&format!("FROM x\n{text}"));
    file.stages.into_iter().flat_map(|stage| stage.instructions).map(|one| one.kind).collect()
}

fn check(text: &str, expected: Expect) {
    let found = parse("Dockerfile", text).expect_err("it must not be accepted");
    expected.assert_eq(&(found.render(false) + "\n"));
}

fn text(word: &Word) -> &str {
    &word.text
}

#[test]
fn stages_are_told_apart() {
    let file = good("ARG V=1\nARG W\nFROM --platform=$P a:$V AS Base\nRUN x\nfrom base\nFROM scratch as last\nCMD y\n");
    assert_eq!(file.arguments.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["V", "W"]);
    let of = |stage: &Stage| (stage.image.text.clone(), stage.name.clone(), stage.instructions.len());
    let expected = [("a:$V", Some("base"), 1), ("base", None, 0), ("scratch", Some("last"), 1)];
    let found: Vec<_> = file.stages.iter().map(of).collect();
    let expected: Vec<_> = expected.map(|(image, name, n)| (image.to_owned(), name.map(str::to_owned), n)).into();
    assert_eq!(found, expected);
    assert_eq!(file.stages[0].platform.as_ref().map(text), Some("$P"));
}

#[test]
fn pairs_have_two_forms() {
    let env = |line: &str| match &kinds(line)[0] {
        Kind::Env(pairs) | Kind::Label(pairs) => {
            pairs.iter().map(|(key, value)| format!("{}|{}", key.text, value.text)).collect::<Vec<_>>()
        }
        other => panic!("{other:?}"),
    };
    for (line, expected) in [
        ("ENV a=1 b=\"x y\" c=x\\ y", vec!["a|1", "b|\"x y\"", "c|x\\ y"]),
        ("ENV a b c d", vec!["a|b c d"]),
        ("ENV a=1 \\\n  # no\n  b=2", vec!["a|1", "b|2"]),
        ("LABEL \"a.b\"=c 'd e'=f", vec!["\"a.b\"|c", "'d e'|f"]),
        ("ENV a=b=c", vec!["a|b=c"]),
        ("ENV a=", vec!["a|"]),
    ] {
        assert_eq!(env(line), expected, "{line}");
    }
}

#[test]
fn commands_have_two_forms() {
    for (line, expected) in [
        ("CMD [\"a\", \"b c\"]", Command::Exec(vec!["a".into(), "b c".into()])),
        ("CMD a \"b c\"  ", Command::Shell("a \"b c\"".into())),
        ("CMD [ -f x ]", Command::Shell("[ -f x ]".into())),
        ("cmd []", Command::Exec(vec![])),
    ] {
        assert_eq!(kinds(line), [Kind::Cmd(expected)], "{line}");
    }
    assert_eq!(kinds("SHELL [\"/bin/x\"]"), [Kind::Shell(vec!["/bin/x".into()])]);
}

#[test]
fn copies_have_flags_sources_and_a_target() {
    let copy = |line: &str| match kinds(line).remove(0) {
        Kind::Copy(copy) => *copy,
        other => panic!("{other:?}"),
    };
    let one = copy("COPY --from=base --chown=a:b --chmod=u+x --link --exclude=*.o --exclude=x a b/* /c/");
    assert_eq!(one.sources.iter().map(text).collect::<Vec<_>>(), ["a", "b/*"]);
    assert_eq!((text(&one.target), one.from.as_ref().map(text)), ("/c/", Some("base")));
    assert_eq!((one.owner.as_ref().map(text), one.link, one.parents), (Some("a:b"), true, false));
    assert_eq!(one.exclude.iter().map(text).collect::<Vec<_>>(), ["*.o", "x"]);
    assert_eq!(copy("COPY [\"a b\", \"c\"]").sources.iter().map(text).collect::<Vec<_>>(), ["a b"]);
    let here = copy("COPY <<one <<\"two\" x /d/\n1\none\n2\ntwo");
    assert_eq!(here.heredocs.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(here.sources.iter().map(text).collect::<Vec<_>>(), ["x"]);
    assert!(copy("ADD --unpack=false a.tar /").add);
}

#[test]
fn mounts_and_health_checks_have_options() {
    let Kind::Run(run) = kinds(
        "RUN --network=none --mount=type=cache,target=/c,id=x,sharing=locked,mode=0700 \
         --mount=type=secret,id=s,required --mount=from=a,source=/b,target=/t,rw --mount=type=tmpfs,dst=/m,size=1m echo",
    )
    .remove(0) else {
        panic!()
    };
    assert_eq!(run.mounts.len(), 4);
    assert!(matches!(&run.mounts[0].kind, MountKind::Cache { sharing: Sharing::Locked, mode: 0o700, .. }));
    assert!(matches!(&run.mounts[1].kind, MountKind::Secret { required: true, .. }));
    assert!(matches!(&run.mounts[2].kind, MountKind::Bind { writable: true, .. }));
    assert!(matches!(&run.mounts[3].kind, MountKind::Tmpfs { size: Some(1_048_576) }));
    let Kind::Healthcheck(check) = kinds("HEALTHCHECK --interval=1m --retries=5 CMD curl x || exit 1").remove(0) else {
        panic!()
    };
    assert_eq!(check.test, ["CMD-SHELL", "curl x || exit 1"]);
    assert_eq!((check.interval_ms, check.retries), (Some(60_000), Some(5)));
    assert_eq!(kinds("ONBUILD COPY a /b"), [Kind::Onbuild("COPY a /b".into())]);
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    check(
        "FROM alpine AS 1st\nRNU echo\nCOPY a\nCOPY --form=x a b\nEXPOSE ${P\nSHELL /bin/sh\nUSER\n",
        expect![[r#"
            error: `1st` can't be a stage's name
             --> Dockerfile:1:16
              |
            1 | FROM alpine AS 1st
              |                ^^^
              |
              = help: a letter first, then letters, digits, `_`, `.` and `-`

            error: unknown instruction `RNU`
             --> Dockerfile:2:1
              |
            2 | RNU echo
              | ^^^
              |
              = help: did you mean `RUN`?

            error: `COPY` needs a source and a target
             --> Dockerfile:3:6
              |
            3 | COPY a
              |      ^
              |
              = help: it is `COPY SOURCE… TARGET`

            error: unknown flag `--form`
             --> Dockerfile:4:6
              |
            4 | COPY --form=x a b
              |      ^^^^^^
              |
              = help: did you mean `--from`?

            error: `}` is missing
             --> Dockerfile:5:8
              |
            5 | EXPOSE ${P
              |        ^^^

            error: `SHELL` takes a JSON list
             --> Dockerfile:6:7
              |
            6 | SHELL /bin/sh
              |       ^^^^^^^
              |
              = help: such as `SHELL ["/bin/bash", "-c"]`

            error: `USER` needs an argument
             --> Dockerfile:7:1
              |
            7 | USER
              | ^^^^
        "#]],
    );
}

#[test]
fn mounts_and_options_that_are_wrong() {
    check(
        "FROM a\nRUN --mount=type=cahce,target=/x true\nRUN --mount=type=cache,tagret=/x true\n\
         RUN --mount=type=bind,target=/x,propagation=shared true\nRUN --security=insecure --network=lan true\n\
         HEALTHCHECK --interval=5 CMD x\nCOPY --chmod=9 a b\nONBUILD FROM x\nADD https://x/y /z\n",
        expect![[r#"
            error: unknown type of mount `cahce`
             --> Dockerfile:2:18
              |
            2 | RUN --mount=type=cahce,target=/x true
              |                  ^^^^^
              |
              = help: did you mean `cache`?

            error: this mount has no target
             --> Dockerfile:3:13
              |
            3 | RUN --mount=type=cache,tagret=/x true
              |             ^^^^^^^^^^^^^^^^^^^^
              |
              = help: add `target=/…`

            error: unknown key `tagret` of a mount
             --> Dockerfile:3:24
              |
            3 | RUN --mount=type=cache,tagret=/x true
              |                        ^^^^^^
              |
              = help: did you mean `target`?

            error: unknown key `propagation` of a mount
             --> Dockerfile:4:33
              |
            4 | RUN --mount=type=bind,target=/x,propagation=shared true
              |                                 ^^^^^^^^^^^

            error: `--security=insecure`: a build has the rights of an ordinary container
             --> Dockerfile:5:16
              |
            5 | RUN --security=insecure --network=lan true
              |                ^^^^^^^^
              |
              = help: leave it out

            error: unknown network `lan`
             --> Dockerfile:5:35
              |
            5 | RUN --security=insecure --network=lan true
              |                                   ^^^
              |
              = help: there is default, none and host

            error: `5` is not a duration
             --> Dockerfile:6:24
              |
            6 | HEALTHCHECK --interval=5 CMD x
              |                        ^
              |
              = help: such as 30s or 1m30s

            error: `9` is not a mode
             --> Dockerfile:7:14
              |
            7 | COPY --chmod=9 a b
              |              ^
              |
              = help: an octal number such as 0755, or a form such as u+x,g=r

            error: `FROM` can't be a trigger
             --> Dockerfile:8:9
              |
            8 | ONBUILD FROM x
              |         ^^^^^^

            error: `https://x/y`: fetching is not there yet
             --> Dockerfile:9:5
              |
            9 | ADD https://x/y /z
              |     ^^^^^^^^^^^
              |
              = help: fetch it in a `RUN`
        "#]],
    );
}

#[test]
fn order_and_names_are_checked() {
    check(
        "RUN x\nFROM a as b\nFROM c AS B\nFROM d e\n",
        expect![[r#"
        error: there is no stage yet
         --> Dockerfile:1:1
          |
        1 | RUN x
          | ^^^^^
          |
          = help: the first instruction is `FROM`; only `ARG` may come before it

        error: two stages are named `b`
         --> Dockerfile:3:1
          |
        2 | FROM a as b
          | ----------- the first
        3 | FROM c AS B
          | ^^^^^^^^^^^

        error: `e` is not expected here
         --> Dockerfile:4:8
          |
        4 | FROM d e
          |        ^
          |
          = help: it is `FROM IMAGE` or `FROM IMAGE AS NAME`
    "#]],
    );
    check(
        "# nothing\n",
        expect![[r#"
        error: there is no `FROM`
         --> Dockerfile:1:1
          |
        1 | # nothing
          | ^
          |
          = help: a Dockerfile begins with the image that it builds on
    "#]],
    );
    check(
        "",
        expect![[r#"
        error: there is no `FROM`
         --> Dockerfile:1:1
          |
        1 |
          | ^
          |
          = help: a Dockerfile begins with the image that it builds on
    "#]],
    );
}
