//! Images that are mounted into containers of other images.

use std::fs;

use crate::support::World;

/// Two layers, so that overlayfs stacks them; the second one says something else of a file.
fn site(world: &World) {
    world.busybox("root");
    for (path, text) in [("root/site/index", "first"), ("root/site/deep/page", "page"), ("next/site/index", "second")] {
        world.file(path, text);
    }
    world.file(
        "site/Dockerfile",
        "FROM base\nCOPY index /site/index\nRUN ln -s /site/deep /linked && ln -s /../../etc /out\n",
    );
    world.file("site/index", "second");
    let archive = world.archive("base", "root", &serde_json::json!({}));
    world.ok(&["load", "-i", archive.to_str().unwrap()]);
    world.ok(&["build", "-q", "--network", "none", "-t", "site:1", "site"]);
}

#[test]
fn an_image_is_mounted_whole_or_in_part_and_stays_while_it_is() {
    let world = World::new();
    site(&world);
    for users in ["private", "host"] {
        let text = format!(
            "name: m\ncontainers:\n  web:\n    image: \"builtin:whoami\"\n    command: [sleep, forever]\n    network_mode: none\n    \
             userns_mode: {users}\n    stop_grace_period: 0s\n    volumes:\n      \
             - {{type: image, source: \"site:1\", target: /whole}}\n      \
             - {{type: image, source: \"site:1\", target: /part, image: {{subpath: linked}}}}\n      \
             - {{type: image, source: \"site:1\", target: /one, image: {{subpath: site/index}}}}\n"
        );
        let file = world.file("stack.yaml", &text);
        let file = file.to_str().unwrap();
        world.ok(&["apply", file]);
        let cat = |path: &str| world.ok(&["exec", "m-web-1", "/whoami", "cat", path]);
        assert_eq!([cat("/whole/site/index"), cat("/part/page"), cat("/one")], ["second", "page", "second"]);
        let said = world.run(&["exec", "m-web-1", "/whoami", "write", "/whole/site/index", "x"]);
        assert!(said.code != 0 && cat("/whole/site/index") == "second", "{said:?}");
        assert!(world.run(&["apply", file]).stderr.contains("nothing to do"));
        // Nobody takes away what it stands on.
        assert!(world.fails(1, &["rmi", "site:1"]).contains("m-web-1"));
        world.ok(&["image", "prune", "-a", "-f"]);
        world.ok(&["restart", "m-web-1"]);
        assert_eq!(cat("/whole/site/index"), "second");
        world.ok(&["stop", "m-web-1"]);
        world.ok(&["cp", "m-web-1:/part/page", "copied"]);
        assert_eq!(fs::read_to_string(world.directory.join("copied")).unwrap(), "page");
        world.ok(&["destroy", "m"]);
    }
}

#[test]
fn another_content_of_a_mounted_image_is_a_change_and_a_missing_one_is_told() {
    let world = World::new();
    site(&world);
    let run = |mount: &str| {
        world.run(&["run", "--rm", "--network", "none", "--mount", mount, "builtin:whoami", "cat", "/i/index"])
    };
    assert_eq!(run("type=image,source=site:1,target=/i,image-subpath=site").stdout, "second");
    let said = run("type=image,source=site:1,target=/i,image-subpath=none");
    assert!(said.code == 125 && said.stderr.contains("none in the image"), "{said:?}");
    // A link of the image leads nowhere but into the image.
    let said = run("type=image,source=site:1,target=/i,image-subpath=out/hostname");
    assert!(said.code == 125, "{said:?}");
    world.file(
        "stack.yaml",
        "name: m\nimages: {files: {rootfs: ./root}}\ncontainers:\n  web: {image: \"builtin:whoami\", command: [sleep, forever], \
         network_mode: none, stop_grace_period: 0s, volumes: [{type: image, source: files, target: /i}]}\n",
    );
    world.ok(&["apply"]);
    world.file("root/site/index", "third");
    let plan = world.ok(&["plan"]);
    assert!(plan.contains("mounts./i.digest") && plan.contains("replace"), "{plan}");
    world.ok(&["apply"]);
    assert_eq!(world.ok(&["exec", "m-web-1", "/whoami", "cat", "/i/site/index"]), "third");
    world.ok(&["destroy", "m"]);
}
