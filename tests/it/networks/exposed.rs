//! The report on what can be reached from where: each line of it is tried.

use crate::support::island::{HERE, THERE, on_an_island, sh};

#[test]
fn the_report_on_exposure_says_what_is_so() {
    on_an_island(|island| {
        let world = &island.world;
        island.apply(
            "stack.yaml",
            "name: shop\ncontainers:\n  web: {image: \"builtin:whoami\", networks: [front], ports: [\"0.0.0.0:8080:80\", \
             \"127.0.0.1:8081:80\", \"192.0.2.1:8082:80\"]}\n  open: {image: \"builtin:whoami\", networks: [front], \
             ports: [\"0.0.0.0:8083:80\"], publish: bypass}\n  db: {image: \"builtin:whoami\", networks: [back]}\n\
             networks: {front: {}, back: {internal: true}}\n",
        );
        let report = || -> Vec<serde_json::Value> {
            serde_json::from_str(&world.ok(&["network", "exposure", "--format", "json"])).unwrap()
        };
        let at = |at: &str| report().into_iter().find(|one| one["at"] == at).unwrap_or_else(|| panic!("{at}"));
        let firewall = |port: &str| at(port)["firewall"].clone();
        assert_eq!(firewall("0.0.0.0:8080")["verdict"], "let in");
        let from = at("0.0.0.0:8080")["from"].to_string();
        assert!(
            from.contains(&HERE.to_string()) && from.contains(&THERE.to_string()) && !from.contains("10.210"),
            "{from}"
        );
        assert!(island.outside.ask(HERE, 8080).is_ok() && island.beyond.ask(THERE, 8080).is_ok());
        assert_eq!(at("127.0.0.1:8081")["from"], serde_json::json!(["this host"]));
        assert!(island.outside.ask(HERE, 8081).is_err());
        let from = at("192.0.2.1:8082")["from"].to_string();
        assert!(from.contains(&HERE.to_string()) && !from.contains(&THERE.to_string()), "{from}");
        let inner = report().into_iter().find(|one| one["container"] == "shop-db-1").unwrap();
        assert_eq!(inner["from"], serde_json::json!(["this host", "containers of shop_back"]));
        // What the host's firewall does.
        sh(
            "nft 'add table inet theirs; add chain inet theirs input { type filter hook input priority 0; policy drop; }'",
        );
        let dropped = firewall("0.0.0.0:8080");
        assert_eq!(dropped["verdict"], "dropped");
        assert_eq!(dropped["by"], "chain input of table inet theirs (its policy)");
        assert_eq!(firewall("0.0.0.0:8083")["mode"], "bypass");
        assert_eq!(firewall("0.0.0.0:8083")["verdict"], "let in");
        sh("nft add rule inet theirs input iif lo accept; nft add rule inet theirs input ct state established accept");
        assert_eq!(firewall("0.0.0.0:8080")["verdict"], "dropped");
        sh("nft add rule inet theirs input ip saddr 198.51.100.0/24 tcp dport 8080 accept");
        assert_eq!(firewall("0.0.0.0:8080")["verdict"], "depends");
        assert_eq!(firewall("192.0.2.1:8082")["verdict"], "dropped");
        sh("nft add chain inet theirs web; nft add rule inet theirs web tcp dport { 8082, 8084 } accept; \
            nft add rule inet theirs web tcp dport 8080-8081 accept; nft insert rule inet theirs input jump web");
        assert_eq!(firewall("0.0.0.0:8080")["verdict"], "let in");
        // A chain for what is passed on has its say, too, whatever is bypassed.
        sh("nft 'add chain inet theirs forward { type filter hook forward priority 0; policy drop; }'");
        for port in ["0.0.0.0:8080", "0.0.0.0:8083"] {
            assert_eq!(firewall(port)["by"], "chain forward of table inet theirs (its policy)", "{port}");
        }
        assert!(island.outside.ask(HERE, 8083).is_err());
        sh(
            "nft add rule inet theirs forward ct status dnat accept; nft add rule inet theirs forward ct state established accept",
        );
        assert_eq!(firewall("0.0.0.0:8083")["verdict"], "let in");
        assert!(island.outside.ask(HERE, 8083).is_ok());
        let text = world.ok(&["network", "exposure"]);
        assert!(text.contains("obey: let in") && text.contains("bypass: let in"), "{text}");
        world.ok(&["destroy", "shop"]);
    });
}
