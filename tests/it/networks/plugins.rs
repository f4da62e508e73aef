//! Networks that CNI plugins make: Debian's real ones, and some that die, hang and lie.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use hickory_proto::rr::RecordType;

use super::names::{found, look_up, name_server};
use crate::support::island::{HERE, Island, OUTSIDE, client, on_an_island, sh};

/// A configuration with Debian's plugins, and the place where addresses that were given out are written down.
fn debians(island: &Island) -> PathBuf {
    let given = island.world.directory.join("given");
    let text = format!(
        r#"{{"cniVersion": "1.0.0", "name": "lan", "plugins": [
  {{"type": "bridge", "bridge": "cni7", "isGateway": true, "hairpinMode": true, "dns": {{"nameservers": ["{OUTSIDE}"]}},
    "ipam": {{"type": "host-local", "dataDir": "{}", "ranges": [[{{"subnet": "10.77.0.0/24"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
  {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        given.display()
    );
    configuration(island, "10-lan.conflist", &text);
    given.join("lan")
}

fn configuration(island: &Island, file: &str, text: &str) {
    let directory = island.world.directory.join("net.d");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(file), text).unwrap();
}

/// A plugin of this test's own.
fn plugin(island: &Island, name: &str, script: &str) {
    let path = island.world.directory.join("plugins").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn stack(island: &Island, name: &str, ports: &str) -> String {
    let directory = island.world.directory.display();
    format!(
        r#"
name: shop
containers:
  web: {{image: "builtin:whoami", stop_grace_period: 0s, networks: [lan], ports: [{ports}]}}
  client: {{image: "builtin:whoami", command: [sleep, forever], stop_grace_period: 0s, networks: [lan]}}
networks:
  lan:
    driver: cni
    driver_opts: {{config: {name}, config_dir: {directory}/net.d, plugin_dir: "{directory}/plugins:/usr/lib/cni", timeout_s: 3}}
"#
    )
}

/// Addresses that a plugin has given out, by its own record.
fn given(place: &PathBuf) -> Vec<String> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("10.")).collect();
    names.sort_unstable();
    names
}

fn rules() -> usize {
    sh("iptables -t nat -S").matches("CNI-DN-").count()
}

#[test]
fn debians_plugins_give_addresses_ports_and_name_servers() {
    on_an_island(|island| {
        let asked = name_server(&island.outside, OUTSIDE);
        sh("echo 1 > /proc/sys/net/ipv4/ip_forward");
        let records = debians(island);
        let file = island.apply("stack.yaml", &stack(island, "lan", "\"0.0.0.0:8080:80\""));
        let (web, other) = (island.address("shop-web-1"), island.container("shop-client-1"));
        assert!(given(&records).contains(&web.to_string()));
        assert_eq!(client(other.ask(web, 80)), island.address("shop-client-1").to_string());
        assert_eq!(look_up(&other, "web.", RecordType::A), found([web]));
        assert_eq!(client(island.outside.ask(HERE, 8080)), OUTSIDE.to_string(), "by portmap's rules");
        look_up(&other, "elsewhere.test.", RecordType::A);
        assert!(!asked.lock().unwrap().is_empty(), "the name server of the result");
        assert_eq!(island.world.ok(&["network", "inspect", "shop_lan", "--format", "{{.Driver}}"]).trim(), "cni");
        assert_eq!(island.world.ok(&["plan", &file, "--detailed-exitcode"]).matches("network/").count(), 0);
        // What was made is undone by what it was made with.
        fs::remove_dir_all(island.world.directory.join("net.d")).unwrap();
        island.world.ok(&["destroy", &file]);
        assert_eq!((given(&records), rules()), (Vec::new(), 0));
        assert!(!island.world.roots.durable("cni").exists());
    });
}

#[test]
fn what_plugins_made_and_was_lost_is_made_again_with_the_same_address() {
    on_an_island(|island| {
        let records = debians(island);
        let file = island.apply("stack.yaml", &stack(island, "lan", ""));
        let (address, pid) = (island.address("shop-web-1"), island.world.field("shop-web-1", "pid"));
        for harm in ["ip link del eth0", &format!("ip addr del {address}/24 dev eth0"), "ip route del default"] {
            island.container("shop-web-1").sh(harm);
            island.world.ok(&["apply", &file]);
            assert_eq!(island.address("shop-web-1"), address, "{harm}");
            let other = island.container("shop-client-1");
            assert_eq!(client(other.ask(address, 80)), island.address("shop-client-1").to_string(), "{harm}");
            assert!(island.container("shop-web-1").sh("ip route").contains("default"), "{harm}");
        }
        // What no link or address tells, a plugin does.
        island.container("shop-web-1").sh("ip route del default");
        let said = island.world.run(&["status", &file]);
        assert!(said.stdout.contains("bridge, CHECK"), "{said:?}");
        island.world.ok(&["apply", &file]);
        island.world.ok(&["status", &file]);
        assert_eq!(island.world.field("shop-web-1", "pid"), pid, "mended while it runs");
        island.world.ok(&["destroy", &file]);
        assert_eq!(given(&records), [""; 0]);
    });
}

/// Makes a link, or takes it away; writes down what it was asked.
const OBEDIENT: &str = r#"here=$(dirname "$0"); echo "$CNI_COMMAND $CNI_IFNAME" >>"$here/../calls"; cat >"$here/../told"
case $CNI_COMMAND in
ADD) nsenter --net="$CNI_NETNS" ip link add "$CNI_IFNAME" type bridge && echo '{"cniVersion": "1.1.0"}' ;;
DEL) [ -z "$CNI_NETNS" ] || nsenter --net="$CNI_NETNS" ip link del "$CNI_IFNAME" 2>/dev/null; true ;;
esac"#;

fn calls(island: &Island) -> Vec<String> {
    let path = island.world.directory.join("calls");
    let text = fs::read_to_string(&path).unwrap_or_default();
    fs::write(&path, "").unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn plugins_that_die_hang_or_lie_are_named_and_leave_nothing() {
    on_an_island(|island| {
        plugin(island, "good", OBEDIENT);
        let text = r#"{"cniVersion": "1.0.0", "name": "two", "plugins": [{"type": "good"}, {"type": "bad"}]}"#;
        configuration(island, "two.conflist", text);
        let lonely =
            |text: String| text.lines().filter(|line| !line.contains("client:")).collect::<Vec<_>>().join("\n");
        let file = island.world.file("stack.yaml", &lonely(stack(island, "two", "")));
        let file = file.to_str().unwrap();
        for (script, word) in [
            (
                "[ $CNI_COMMAND = DEL ] || { echo '{\"code\": 11, \"msg\": \"try later\"}'; exit 1; }",
                "try later (code 11)",
            ),
            ("[ $CNI_COMMAND = DEL ] || kill -9 $$", "signal: 9"),
            ("[ $CNI_COMMAND = DEL ] || sleep 1000", "no answer within 3 s"),
            ("[ $CNI_COMMAND = DEL ] || echo what", "not an answer"),
            (
                "[ $CNI_COMMAND = DEL ] || echo '{\"ips\": [{\"address\": \"10.1.1.1/24\"}]}'",
                "link eth0 of the container has no address 10.1.1.1",
            ),
            (
                "[ $CNI_COMMAND = DEL ] || { nsenter --net=$CNI_NETNS ip link del eth0; echo '{}'; }",
                "there is no link eth0 in the container",
            ),
        ] {
            plugin(island, "bad", script);
            let said = island.world.fails(1, &["apply", file]);
            assert!(said.contains(word), "{said}");
            let called = calls(island);
            assert_eq!(called.first().map(String::as_str), Some("ADD eth0"), "{script}");
            assert_eq!(called.last().map(String::as_str), Some("DEL eth0"), "{script}");
            assert!(!island.world.roots.durable("cni").exists(), "{script}");
            island.world.ok(&["destroy", file]);
        }
        let said = {
            plugin(island, "bad", "[ $CNI_COMMAND = DEL ] || echo '{}'");
            island.world.file("stack.yaml", &lonely(stack(island, "two", "\"8080:80\"")));
            island.world.fails(1, &["apply", file])
        };
        assert!(said.contains("publishes ports") && said.contains("portmap"), "{said}");
        island.world.ok(&["destroy", file]);
    });
}

#[test]
fn a_configuration_that_is_wrong_or_missing_is_named_before_anything_is_made() {
    on_an_island(|island| {
        configuration(
            island,
            "a.conflist",
            "{\"cniVersion\": \"1.0.0\", \"name\": \"a\",\n \"plugins\": [{\"typ\": \"x\"}]}",
        );
        let file = island.world.file("stack.yaml", &stack(island, "a", ""));
        let file = file.to_str().unwrap();
        let said = island.world.fails(1, &["apply", file]);
        assert!(said.contains("a.conflist:2:") && said.contains("missing field `type`"), "{said}");
        island.world.file("stack.yaml", &stack(island, "b", ""));
        let said = island.world.fails(1, &["apply", file]);
        assert!(said.contains("no CNI configuration named \"b\"") && said.contains("these are there: a"), "{said}");
        assert_eq!(island.world.names(), [""; 0]);
        island.world.ok(&["destroy", file]);
    });
}

#[test]
fn plugins_of_version_1_1_are_asked_for_their_state_and_told_what_is_in_use() {
    on_an_island(|island| {
        plugin(island, "good", OBEDIENT);
        let text = r#"{"cniVersion": "1.1.0", "name": "new", "plugins": [{"type": "good", "capabilities": {"aliases": true}}]}"#;
        configuration(island, "new.conflist", text);
        let file = island.apply("stack.yaml", &stack(island, "new", ""));
        let called = calls(island);
        assert_eq!(called[0], "STATUS");
        assert!(called.contains(&"GC".to_owned()), "{called:?}");
        let count = |called: &[String], what: &str| called.iter().filter(|call| *call == what).count();
        // One that is lost meanwhile is added again.
        assert!(count(&called, "ADD eth0") >= 2, "{called:?}");
        let told = fs::read_to_string(island.world.directory.join("told")).unwrap();
        assert!(told.contains("\"runtimeConfig\":{\"aliases\":{\"shop_lan\":["), "{told}");
        island.world.ok(&["status", &file]);
        assert!(calls(island).contains(&"CHECK eth0".to_owned()));
        island.world.ok(&["destroy", &file]);
        let called = calls(island);
        assert!(count(&called, "DEL eth0") >= 2, "{called:?}");
        assert!(
            called.iter().rposition(|call| call == "DEL eth0") > called.iter().rposition(|call| call == "ADD eth0")
        );
    });
}

/// Its namespace is held at another path then, which plugins are to know.
#[test]
fn a_container_with_another_name_keeps_what_plugins_gave_it() {
    on_an_island(|island| {
        let records = debians(island);
        let file = island.apply("stack.yaml", &stack(island, "lan", ""));
        let address = island.address("shop-web-1");
        island.world.ok(&["rename", "shop-web-1", "other"]);
        island.container("other").sh("ip route del default");
        let kept = fs::read_to_string(island.world.roots.durable("endpoints/other.json")).unwrap();
        assert!(kept.contains(&address.to_string()), "{kept}");
        let said = island.world.run(&["status", &file]);
        assert!(!said.stdout.contains("Sandbox"), "{said:?}");
        island.world.ok(&["rename", "other", "shop-web-1"]);
        island.world.ok(&["apply", &file]);
        assert_eq!(island.address("shop-web-1"), address);
        assert_eq!(island.world.ok(&["status", &file]).matches("repair").count(), 0);
        island.world.ok(&["destroy", &file]);
        assert_eq!(given(&records), [""; 0]);
    });
}

/// A reboot leaves the record and the plugin's own, and neither namespace nor link.
#[test]
fn what_a_reboot_took_is_undone_and_made_again() {
    on_an_island(|island| {
        let records = debians(island);
        let file = island.apply("stack.yaml", &stack(island, "lan", ""));
        let kept = given(&records);
        for name in ["shop-web-1", "shop-client-1"] {
            island.world.ok(&["stop", name]);
            let namespace = island.world.roots.volatile("netns").join(name);
            if namespace.exists() {
                sh(&format!("umount {} && rm {}", namespace.display(), namespace.display()));
            }
        }
        island.world.ok(&["apply", &file]);
        assert_eq!(given(&records).len(), kept.len(), "nothing is given out twice");
        let web = island.address("shop-web-1");
        assert!(given(&records).contains(&web.to_string()));
        island.world.ok(&["destroy", &file]);
        assert_eq!(given(&records), [""; 0]);
    });
}
