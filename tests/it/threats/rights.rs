//! What the engine's own processes may do that live long, as docs/security.md has it.

use std::fs;
use std::path::Path;

use crate::support::island::on_an_island;
use crate::support::{World, eventually, processes};

const STACK: &str = r#"
name: shop
containers:
  web:
    image: builtin:whoami
    ports: ["8080:80"]
    networks: [front]
    logging: {driver: json-file, options: {mode: non-blocking}}
networks: {front: {}}
"#;
/// Of linux/capability.h, those that a row names.
const NAMES: [(u32, &str); 4] = [(10, "NET_BIND_SERVICE"), (12, "NET_ADMIN"), (13, "NET_RAW"), (21, "SYS_ADMIN")];

fn field(pid: u32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    line.unwrap_or_else(|| panic!("{name} of {pid}")).trim().to_owned()
}

fn capabilities(pid: u32) -> String {
    assert_eq!(field(pid, "CapEff"), field(pid, "CapPrm"));
    assert_eq!(field(pid, "CapInh"), "0000000000000000");
    let held = field(pid, "CapEff");
    if held == field(std::process::id(), "CapEff") {
        return "all".to_owned();
    }
    let bits = u64::from_str_radix(&held, 16).unwrap();
    let known = NAMES.iter().filter(|(bit, _)| bits & (1 << bit) != 0);
    let names: Vec<String> = known.clone().map(|(_, name)| format!("`{name}`")).collect();
    assert_eq!(known.fold(0, |mask, (bit, _)| mask | 1_u64 << bit), bits, "{held}");
    if names.is_empty() { "none".to_owned() } else { names.join(" ") }
}

/// As a row of the table begins.
fn row(process: &str, pid: u32) -> String {
    let word = |name: &str, yes: &str| if field(pid, name) == yes { "yes" } else { "no" };
    format!("| {process} | {} | {} | {} |", capabilities(pid), word("NoNewPrivs", "1"), word("Seccomp", "2"))
}

/// The processes of this engine with this word, in the order of their births.
fn with(world: &World, word: &str) -> Vec<u32> {
    let root = format!("{word} --root {}", world.roots.root.display());
    let mut found: Vec<u32> =
        processes().into_iter().filter(|(_, line)| line.contains(&root)).map(|one| one.0).collect();
    let birth = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(19)?.parse::<u64>().ok())
    };
    found.sort_by_key(|pid| (birth(pid), *pid));
    found
}

#[test]
fn processes_that_live_long_have_the_rights_that_are_written_down() {
    on_an_island(|island| {
        island.apply("stack.yaml", STACK);
        let world = &island.world;
        let supervisor: u32 =
            world.ok(&["inspect", "--format", "{{.Stack.Supervisor}}", "shop-web-1"]).trim().parse().unwrap();
        let writer = || with(world, " shim").into_iter().find(|pid| *pid != supervisor);
        eventually("the log's writer is confined", || writer().is_some_and(|pid| field(pid, "Seccomp") == "2"));
        let writer = writer().unwrap();
        let [keeper, server] = with(world, " netd")[..] else { panic!("{:?}", with(world, " netd")) };
        let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md");
        let document = fs::read_to_string(document).unwrap();
        let all = [
            ("supervisor of a container", supervisor),
            ("writer of a log that is not waited for", writer),
            ("server of names and ports", server),
            ("who starts that server again", keeper),
        ];
        for (process, pid) in all {
            let row = row(process, pid);
            assert!(document.contains(&row), "docs/security.md has no {row}");
        }
        world.ok(&["destroy", "shop"]);
    });
}
