//! Images from Dockerfiles, on the real host: what is in them, what is remembered, and that nothing is left behind.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::{Output, World};

/// A world with a context, in which there is a shell.
struct Site {
    world: World,
    context: PathBuf,
}

/// The beginning of every file here that runs something.
const SHELL: &str = "FROM scratch\nCOPY --chmod=755 busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\nENV PATH=/bin\n";

impl Site {
    fn new() -> Self {
        let world = World::new();
        let context = world.directory.join("context");
        fs::create_dir_all(&context).unwrap();
        fs::copy("/bin/busybox", context.join("busybox")).expect("busybox-static is installed");
        Self { world, context }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        self.world.file(&format!("context/{name}"), text)
    }

    /// `stack build` of this Dockerfile, with these further words.
    fn build(&self, text: &str, words: &[&str]) -> Output {
        self.file("Dockerfile", text);
        self.world.run(&[&["build", "-t", "built"], words, &["context"]].concat())
    }

    #[track_caller]
    fn good(&self, text: &str, words: &[&str]) -> Output {
        let output = self.build(text, words);
        assert_eq!(output.code, 0, "{output:#?}");
        output
    }

    #[track_caller]
    fn bad(&self, text: &str, words: &[&str]) -> String {
        let output = self.build(text, words);
        assert_eq!(output.code, 1, "{output:#?}");
        output.stderr
    }

    fn image(&self) -> Value {
        let text = self.world.ok(&["image", "inspect", "built"]);
        let seen = serde_json::from_str::<Value>(&text).unwrap()[0].take();
        let own = &seen["Stack"];
        json!({"id": seen["Id"], "layers": own["Layers"], "config": own["Configuration"]})
    }

    /// Where a path of the image is on disk: in the uppermost layer that has it.
    fn path(&self, path: &str) -> PathBuf {
        let layers = self.image()["layers"].as_array().unwrap().clone();
        let found = layers.iter().rev().map(|layer| Path::new(layer.as_str().unwrap()).join(path));
        found.into_iter().find(|path| path.symlink_metadata().is_ok()).unwrap_or_else(|| panic!("{path} is not there"))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// Every path of all layers, sorted.
    fn paths(&self) -> Vec<String> {
        let mut found = Vec::new();
        for layer in self.image()["layers"].as_array().unwrap() {
            let top = PathBuf::from(layer.as_str().unwrap());
            let mut waiting = vec![top.clone()];
            while let Some(directory) = waiting.pop() {
                for entry in fs::read_dir(&directory).unwrap() {
                    let path = entry.unwrap().path();
                    found.push(path.strip_prefix(&top).unwrap().display().to_string());
                    if path.symlink_metadata().unwrap().is_dir() {
                        waiting.push(path);
                    }
                }
            }
        }
        found.sort();
        found
    }

    /// mode:uid:gid
    fn owner(&self, path: &str) -> String {
        use std::os::unix::fs::MetadataExt;
        let data = self.path(path).symlink_metadata().unwrap();
        format!("{:o}:{}:{}", data.mode() & 0o7777, data.uid(), data.gid())
    }

    /// Nothing of a build is left, whatever became of it.
    #[track_caller]
    fn is_clean(&self) {
        for directory in [self.world.roots.root.join("builds"), self.world.roots.run.join("builds")] {
            let left: Vec<_> = fs::read_dir(&directory).into_iter().flatten().flatten().map(|one| one.path()).collect();
            assert!(left.is_empty(), "{left:?}");
        }
        assert_eq!(self.world.ok(&["ps", "-aq"]), "");
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Made by the first container that names no network, as `run` makes it.
        self.world.run(&["network", "rm", "default"]);
    }
}

fn steps(output: &Output) -> (u32, u32) {
    let line = output
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("built built: "))
        .unwrap_or_else(|| panic!("{output:#?}"));
    let numbers: Vec<u32> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn an_image_has_the_files_and_the_configuration_that_were_asked_for() {
    let site = Site::new();
    site.file("src/a", "a");
    site.file("src/deep/b", "b");
    site.file("one.txt", "1");
    site.file("two.txt", "2");
    let text = format!(
        "{SHELL}\
         WORKDIR /srv/app\nCOPY src sources\nCOPY --chown=1000:7 --chmod=u=rw,go=r *.txt ./\n\
         COPY one.txt /renamed\nCOPY <<EOF /etc/made\nhello $PATH\nEOF\n\
         ARG WHO=you\nENV GREETING=\"hello $WHO\" OTHER=x\nRUN echo \"$GREETING\" > said && echo no > /gone && rm /gone\n\
         RUN <<EOF\nset -e\necho several > lines\nEOF\nRUN ln said linked && mkdir -m 1777 /tmp && rm /bin/vi\n\
         USER 1000\nEXPOSE 80 53/udp\nVOLUME /data\nLABEL a.b=c\nSTOPSIGNAL SIGINT\n\
         HEALTHCHECK --interval=5s CMD true\nENTRYPOINT [\"cat\"]\nCMD [\"/srv/app/said\"]\n"
    );
    let output = site.good(&text, &["--build-arg", "WHO=me", "--label", "given=yes"]);
    assert_eq!(output.stdout.trim(), site.image()["id"]);
    assert_eq!(site.read("srv/app/said"), "hello me\n");
    assert_eq!(site.read("etc/made"), "hello /bin\n");
    assert_eq!((site.read("srv/app/sources/deep/b"), site.read("renamed")), ("b".into(), "1".into()));
    assert_eq!(site.owner("srv/app/two.txt"), "644:1000:7");
    assert_eq!((site.owner("tmp"), site.owner("srv/app/sources")), ("1777:0:0".into(), "755:0:0".into()));
    let (said, linked) = (site.path("srv/app/said"), site.path("srv/app/linked"));
    assert_eq!(fs::metadata(linked).unwrap().len(), fs::metadata(said).unwrap().len());
    let paths = site.paths();
    for none in ["etc/hosts", "etc/resolv.conf", "proc", "dev", "gone", "srv/app/sources/src"] {
        assert!(!paths.iter().any(|path| path == none), "{none}: {paths:?}");
    }
    let config = site.image()["config"].clone();
    assert_eq!(config["config"]["Env"], json!(["PATH=/bin", "GREETING=hello me", "OTHER=x"]));
    assert_eq!(config["config"]["Cmd"], json!(["/srv/app/said"]));
    assert_eq!(config["config"]["Labels"], json!({"a.b": "c", "given": "yes"}));
    assert_eq!((&config["config"]["User"], &config["config"]["WorkingDir"]), (&json!("1000"), &json!("/srv/app")));
    let layers = config["rootfs"]["diff_ids"].as_array().unwrap().len();
    let history = config["history"].as_array().unwrap();
    assert_eq!(history.iter().filter(|one| one["empty_layer"] != json!(true)).count(), layers);
    assert_eq!(
        history.len(),
        text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_uppercase())).count() - 3
    );
    assert_eq!(site.world.ok(&["run", "--rm", "--network", "none", "built"]), "hello me\n");
    site.world.fails(1, &["run", "--rm", "--network", "none", "--entrypoint", "ls", "built", "/bin/vi"]);
    site.is_clean();
}

#[test]
fn a_step_is_carried_out_again_only_where_its_inputs_changed() {
    let site = Site::new();
    site.file("read", "1");
    site.file("other", "1");
    let text = format!("{SHELL}COPY read /read\nRUN cat /read > /copy\nCOPY other /other\nLABEL x=1\n");
    let first = site.good(&text, &[]);
    assert_eq!(steps(&first), (5, 0));
    let again = site.good(&text, &[]);
    assert_eq!((steps(&again), &again.stdout), ((0, 5), &first.stdout));
    // A time is no cause, and neither is a file that nobody takes.
    site.file("read", "1");
    site.file("unread", "1");
    let touched = site.good(&text, &[]);
    assert_eq!((steps(&touched), &touched.stdout), ((0, 5), &first.stdout));
    site.file("other", "2");
    assert_eq!(steps(&site.good(&text, &[])), (1, 4));
    let file = site.file("read", "1");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    // Mode and content count; what follows is done again on what is new.
    assert_eq!(steps(&site.good(&text, &[])), (3, 2));
    assert_eq!(steps(&site.good(&text.replace("x=1", "x=2"), &[])), (0, 5));
    assert_eq!(steps(&site.good(&text, &["--no-cache"])), (5, 0));
    site.is_clean();
}

/// What an image says of how it was made is its author's word: only what was built here counts.
#[test]
fn an_image_from_elsewhere_is_no_cache() {
    let text = format!("{SHELL}RUN echo good > /copy\n");
    let (elsewhere, site) = (Site::new(), Site::new());
    elsewhere.good(&text, &[]);
    let archive = site.world.directory.join("elsewhere.tar");
    elsewhere.world.ok(&["save", "-o", archive.to_str().unwrap(), "built"]);
    site.world.ok(&["load", "-i", archive.to_str().unwrap()]);
    let (done, kept) = steps(&site.good(&text, &[]));
    assert!(done > 0 && kept == 0, "{done} {kept}");
    assert_eq!(steps(&site.good(&text, &[])), (0, done));
    elsewhere.is_clean();
    site.is_clean();
}

#[test]
fn with_an_epoch_the_same_inputs_give_the_same_image() {
    let site = Site::new();
    site.file("a", "1");
    let text = format!("{SHELL}COPY a /x/a\nRUN date > /dev/null && mkdir /made && echo 1 > /made/b\n");
    let words = ["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1700000000"];
    let first = site.good(&text, &words).stdout;
    let layers = site.image()["config"]["rootfs"]["diff_ids"].clone();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    site.file("a", "1");
    let second = site.good(&text, &words).stdout;
    assert_eq!(site.image()["config"]["rootfs"]["diff_ids"], layers);
    assert_eq!(first, second);
    assert_eq!(site.image()["config"]["created"], "2023-11-14T22:13:20Z");
}

#[test]
fn only_the_stages_that_are_needed_are_built() {
    let site = Site::new();
    let text = "FROM scratch AS unused\nRUN [\"/nosuch\"]\n".to_owned()
        + &SHELL.replace("FROM scratch", "FROM scratch AS base")
        + "FROM base AS one\nRUN echo 1 > /one\nFROM base AS two\nRUN echo 2 > /two\n\
           FROM builtin:whoami AS last\nCOPY --from=one /one /\nCOPY --from=two /two /\nCOPY --from=builtin:whoami /etc/passwd /pw\n";
    site.good(&text, &[]);
    assert_eq!((site.read("one"), site.read("two")), ("1\n".into(), "2\n".into()));
    assert!(site.read("pw").starts_with("root:"));
    let page = site.world.ok(&["run", "--rm", "--network", "none", "built", "cat", "/two"]);
    assert_eq!(page, "2\n");
    site.good(&text, &["--target", "one"]);
    assert!(!site.paths().contains(&"two".to_owned()));
    let said = site.bad(&text, &["--target", "tow"]);
    assert!(said.contains("did you mean `two`?"), "{said}");
}

#[test]
fn a_failing_step_says_what_it_wrote_and_where_it_stands() {
    let site = Site::new();
    site.good("FROM builtin:whoami\nLABEL before=1\n", &[]);
    let before = site.image()["id"].clone();
    let said = site.bad(&format!("{SHELL}RUN echo out && echo err >&2 && exit 3\nRUN true\n"), &["-q"]);
    for wanted in ["| out", "| err", "this step ended with code 3", "--> Dockerfile:5:1", "RUN echo out"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(site.image()["id"], before);
    let said = site.bad("FROM builtin:whoami\nCOPY nosuch /\nRUN --mount=type=cahce x\n", &[]);
    assert!(said.contains("did you mean `cache`?"), "{said}");
    let said = site.bad("FROM builtin:whoami\nCOPY nosuch /\n", &[]);
    assert!(said.contains("there is no `nosuch` in the context") && said.contains("Dockerfile:2:6"), "{said}");
    site.is_clean();
}

#[test]
fn nothing_outside_of_the_context_and_the_image_is_reached() {
    let site = Site::new();
    let canary = site.world.file("canary/secret", "canary");
    symlink("../canary/secret", site.context.join("up")).unwrap();
    symlink(&canary, site.context.join("absolute")).unwrap();
    symlink(canary.parent().unwrap(), site.context.join("directory")).unwrap();
    for source in ["up", "absolute", "directory/secret", "../canary/secret", canary.to_str().unwrap()] {
        let said = site.bad(&format!("FROM scratch\nCOPY {source} /x\n"), &[]);
        assert!(said.contains("there is no"), "{source}: {said}");
    }
    // Links of a directory are kept as they are; nothing is read through them.
    site.good("FROM scratch\nCOPY . /all\n", &[]);
    assert_eq!(fs::read_link(site.path("all/absolute")).unwrap(), canary);
    // A link of the image leads nowhere but into the image.
    let target = canary.parent().unwrap().display();
    let text = format!(
        "{SHELL}RUN ln -s {target} /out && mkdir -p {target} && ln -s /../../../../../../{target} /up\nCOPY busybox /out/planted\nCOPY busybox /up/planted2\n"
    );
    site.good(&text, &[]);
    assert_eq!(fs::read_dir(canary.parent().unwrap()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&canary).unwrap(), "canary");
    assert!(site.path(&format!("{target}/planted2")[1..]).exists());
    let mounted = format!("{SHELL}RUN --mount=type=bind,source=absolute,target=/m cat /m\n");
    assert!(site.bad(&mounted, &[]).contains("there is no"), "{mounted}");
    site.is_clean();
}

#[test]
fn what_is_ignored_is_not_seen() {
    let site = Site::new();
    site.file("keep/a", "1");
    site.file("drop/a", "1");
    site.file("drop/but/b", "1");
    site.file(".dockerignore", "drop\n!drop/but\nbusybox\n*.log\n");
    site.file("x.log", "1");
    site.good("FROM scratch\nCOPY . /\n", &[]);
    assert_eq!(site.paths(), [".dockerignore", "Dockerfile", "drop", "drop/but", "drop/but/b", "keep", "keep/a"]);
    assert!(site.bad("FROM scratch\nCOPY x.log /\n", &[]).contains("left out"));
    site.file("Dockerfile.dockerignore", "**\n!keep\n");
    site.good("FROM scratch\nCOPY . /\n", &[]);
    assert_eq!(site.paths(), ["keep", "keep/a"]);
}

#[test]
fn mounts_are_seen_by_their_step_alone() {
    let site = Site::new();
    site.file("tool", "#!/bin/sh\necho tool >> /out\n");
    let secret = site.world.file("token", "hunter2-canary");
    let secret = format!("id=token,src={}", secret.display());
    let text = format!(
        "{SHELL}\
         RUN --mount=type=secret,id=token cat /run/secrets/token | wc -c > /length && ls -l /run/secrets\n\
         RUN --mount=type=secret,id=token,env=TOKEN test -n \"$TOKEN\"\n\
         RUN --mount=source=tool,target=/mnt/tool sh /mnt/tool\n\
         RUN --mount=target=/ctx,rw echo x > /ctx/written && ls /ctx\n\
         RUN --mount=type=tmpfs,target=/scratch,size=1m echo 1 > /scratch/x\n\
         RUN --mount=type=cache,target=/cache,id=../../../evil,mode=0700 echo line >> /cache/log && cat /cache/log > /seen\n\
         RUN --network=none ip link 2>/dev/null | grep -c : > /links || true\n"
    );
    site.good(&text, &["--secret", &secret]);
    assert_eq!((site.read("length").trim(), site.read("out").as_str()), ("14", "tool\n"));
    assert_eq!(site.read("seen"), "line\n");
    let paths = site.paths();
    for none in ["run", "run/secrets", "mnt", "mnt/tool", "ctx", "scratch", "cache"] {
        assert!(!paths.iter().any(|path| path == none), "{none}: {paths:?}");
    }
    assert!(!site.context.join("written").exists());
    site.good(&text, &["--secret", &secret, "--no-cache"]);
    assert_eq!(site.read("seen"), "line\nline\n");
    assert!(!site.world.directory.join("evil").exists());
    // The secret is nowhere: not in layers, not in configurations, not in what is remembered.
    let found = std::process::Command::new("grep").args(["-rl", "hunter2-canary"]).arg(&site.world.roots.root).output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
    let required = format!("{SHELL}RUN --mount=type=secret,id=token,required true\n");
    assert!(site.bad(&required, &[]).contains("secret `token` is required"));
    site.is_clean();
}

/// Root of a step is nobody on the host; what it makes belongs to whom it says, whatever the number, in the layer and in
/// a cache. What needs the host's network has its ids.
#[test]
fn a_step_has_ids_of_its_own_and_files_those_that_it_sees() {
    let site = Site::new();
    let text = format!(
        "{SHELL}RUN cat /proc/self/uid_map > /map && touch /root /app /large && chown 1000:1001 /app && chown 2000000000 /large\n\
         RUN rm -r /bin/vi && mkdir /own && chmod 700 /own && chown 7 /own && echo kept > /own/file\n\
         RUN --mount=type=cache,target=/cache,uid=5 ls -ln / > /seen && ls -ln /cache -d > /cached && touch /cache/x && cat /own/file\n\
         RUN --mount=type=cache,target=/cache,uid=5 ls -ln /cache > /again\n\
         RUN --network=host cat /proc/self/uid_map > /host\nUSER 1000\nRUN test $(id -u) = 1000\n"
    );
    site.good(&text, &[]);
    let map = |path: &str| site.read(path).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(map("map"), ["0", "2147483648", "2147483646"]);
    assert_eq!(map("host"), ["0", "0", "4294967295"]);
    assert_eq!(
        ["root", "app", "large", "own"].map(|path| site.owner(path)),
        ["644:0:0", "644:1000:1001", "644:2000000000:0", "700:7:0"]
    );
    let seen = site.read("seen");
    assert!(seen.contains(" 2000000000 ") && seen.contains(" 1000     1001 "), "{seen}");
    assert!(site.read("cached").contains(" 5 ") && site.read("again").contains(" 0 "), "{}", site.read("again"));
    site.is_clean();
}

#[test]
fn archives_are_unpacked_and_triggers_act_once() {
    let site = Site::new();
    site.file("tree/etc/x", "x");
    let tar = std::process::Command::new("tar")
        .args(["-czf", "a.tgz", "-C", "tree", "."])
        .current_dir(&site.context)
        .status();
    assert!(tar.unwrap().success());
    let said = site.good("FROM scratch\nADD a.tgz /root/\nADD --unpack=false a.tgz /kept/\nADD tree/etc/x /y\n", &[]);
    assert_eq!((site.read("root/etc/x"), site.read("y")), ("x".into(), "x".into()), "{said:?}");
    assert!(site.path("kept/a.tgz").exists());
    site.file("app", "1");
    site.good("FROM scratch\nONBUILD COPY app /app\nONBUILD ENV A=1\n", &["-t", "base"]);
    assert!(!site.paths().contains(&"app".to_owned()));
    site.good("FROM base\nENV B=$A\n", &[]);
    assert_eq!(site.read("app"), "1");
    assert_eq!(site.image()["config"]["config"]["Env"], json!(["A=1", "B=1"]));
}

#[test]
fn a_killed_build_leaves_nothing() {
    let site = Site::new();
    site.file("Dockerfile", &format!("{SHELL}RUN echo begun && sleep 1000\n"));
    let mut child =
        site.world.command(&["build", "-t", "built", "context"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with("| begun")));
    assert_eq!(site.world.ok(&["ps", "-q"]).lines().count(), 1);
    child.kill().unwrap();
    child.wait().unwrap();
    crate::support::eventually("the step's container is gone", || site.world.ok(&["ps", "-aq"]).is_empty());
    // Files are removed by the next build, whatever it builds.
    site.good("FROM builtin:whoami\n", &[]);
    site.is_clean();
    site.world.fails(1, &["image", "inspect", "nosuch"]);
}

/// A stack of two containers whose image is built from `app`, and one that has nothing to do with it.
fn stack_file() -> String {
    "name: shop\nservices:\n  web:\n    build: {context: ./context, args: {WHO: me}}\n    network_mode: none\n    command: [\"sleep\", \"1000\"]\n    stop_grace_period: 0s\n  \
     other:\n    image: builtin:whoami\n    network_mode: none\n    command: [\"sleep\", \"forever\"]\n    stop_grace_period: 0s\n".to_owned()
}

#[test]
fn a_stack_builds_its_images_and_follows_their_sources() {
    let site = Site::new();
    let world = &site.world;
    site.file("page", "1");
    site.file("unread", "1");
    site.file("Dockerfile", &format!("{SHELL}ARG WHO\nRUN echo $WHO > /who\nCOPY page /page\n"));
    let file = world.file("compose.yaml", &stack_file());
    let file = file.to_str().unwrap();
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("+ image/shop-web") && plan.contains("build"), "{plan}");
    let applied = world.run(&["apply", file]);
    assert!(applied.code == 0 && applied.stderr.contains("[3/5] RUN"), "{applied:#?}");
    let exec = |words: &[&str]| world.ok(&[&["exec", "shop-web-1"], words].concat());
    assert_eq!((exec(&["cat", "/who"]), exec(&["cat", "/page"])), ("me\n".into(), "1".into()));
    let pids = || ["shop-web-1", "shop-other-1"].map(|name| world.field(name, "pid"));
    let before = pids();
    // Nothing changed, or nothing that is read: nothing to do.
    site.file("page", "1");
    site.file("unread", "2");
    let again = world.run(&["apply", file]);
    assert!(again.code == 0 && again.stderr.contains("nothing to do"), "{again:#?}");
    world.ok(&["status", file]);
    // A source that is read moves the image, and the container with it; the other one is not touched.
    site.file("page", "2");
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("~ image/shop-web") && plan.contains("context: content changed"), "{plan}");
    world.fails(2, &["status", file]);
    world.ok(&["apply", file]);
    assert_eq!(exec(&["cat", "/page"]), "2");
    let after = pids();
    assert_ne!(after[0], before[0]);
    assert_eq!(after[1], before[1]);
    world.ok(&["status", file]);
    // An argument is a change with its values; a build that fails leaves what runs as it is.
    world.file("compose.yaml", &stack_file().replace("WHO: me", "WHO: you"));
    let plan = world.ok(&["plan", file]);
    assert!(plan.contains("build.args.WHO: me -> you"), "{plan}");
    site.file("Dockerfile", &format!("{SHELL}ARG WHO\nRUN echo sorry; false\nCOPY page /page\n"));
    let said = world.fails(1, &["apply", file]);
    for wanted in ["sorry", "ended with code 1", "Dockerfile:6:1"] {
        assert!(said.contains(wanted), "{wanted}: {said}");
    }
    assert_eq!(pids(), after);
    site.file("Dockerfile", "FROM scratch\nCOPPY page /\n");
    let said = world.fails(1, &["apply", file]);
    assert!(said.contains("did you mean `COPY`?"), "{said}");
    assert_eq!(pids(), after);
    world.ok(&["destroy", "shop"]);
    site.is_clean();
}

#[test]
fn one_image_is_built_on_another_and_on_what_the_file_says() {
    let site = Site::new();
    let world = &site.world;
    site.file("Dockerfile", SHELL);
    world.file("extra/note", "from outside");
    world.file("token", "hunter2-canary");
    let file = world.file(
        "stack.yaml",
        "name: shop\n\
         images:\n  base: {build: {context: ./context, labels: {made: here}}}\n\
         containers:\n  \
           base: {image: base, network_mode: none, command: [\"true\"]}\n  \
           again: {image: \"web:1\", network_mode: none, command: [\"true\"]}\n  \
           web:\n    image: web:1\n    network_mode: none\n    command: [sleep, \"1000\"]\n    stop_grace_period: 0s\n    build:\n      \
             context: ./context\n      target: second\n      tags: [\"web:also\"]\n      network: none\n      shm_size: 32m\n      \
             cache_from: [\"x\"]\n      platforms: [linux/amd64]\n      secrets: [token]\n      \
             additional_contexts: {on: \"service:base\", extra: ./extra}\n      \
             dockerfile_inline: |\n        FROM on AS first\n        COPY --from=extra note /note\n        \
               RUN --mount=type=secret,id=token,required wc -c < /run/secrets/token > /length && df -m /dev/shm | tail -1 | awk '{print $2}' > /shm\n        \
               FROM first AS second\n        FROM scratch AS never\n        RUN [\"/nosuch\"]\n\
         secrets: {token: {file: ./token}}\n",
    );
    let file = file.to_str().unwrap();
    let plan = world.ok(&["plan", file]);
    for wanted in ["not honoured: containers.web.build.cache_from", "not honoured: containers.web.build.platforms"] {
        assert!(plan.contains(wanted), "{wanted}: {plan}");
    }
    world.ok(&["apply", file]);
    let cat = |path: &str| world.ok(&["exec", "shop-web-1", "cat", path]);
    assert_eq!((cat("/note"), cat("/length"), cat("/shm")), ("from outside".into(), "14\n".into(), "32\n".into()));
    let names = world.ok(&["images", "--format", "{{.Name}}"]);
    assert!(names.contains("shop-base") && names.contains("web:1") && names.contains("web:also"), "{names}");
    assert!(world.run(&["apply", file]).stderr.contains("nothing to do"));
    world.file("extra/note", "changed");
    world.ok(&["apply", file]);
    assert_eq!(cat("/note"), "changed");
    let found = std::process::Command::new("grep").args(["-rl", "hunter2-canary"]).arg(&world.roots.root).output();
    assert_eq!(String::from_utf8(found.unwrap().stdout).unwrap(), "");
    world.ok(&["destroy", "shop"]);
}

#[test]
fn a_watched_stack_follows_the_sources_of_its_image() {
    let site = Site::new();
    let world = &site.world;
    site.file("page", "1");
    site.file("Dockerfile", &format!("{SHELL}COPY page /page\n"));
    let file = world.file("compose.yaml", &stack_file());
    let mut watching =
        world.command(&["watch", file.to_str().unwrap()]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let page = || world.run(&["exec", "shop-web-1", "cat", "/page"]).stdout;
    crate::support::eventually("the first image", || page() == "1");
    site.file("page", "2");
    crate::support::eventually("the second image", || page() == "2");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(watching.id() as i32), nix::sys::signal::Signal::SIGTERM)
        .unwrap();
    watching.wait().unwrap();
    world.ok(&["destroy", "shop"]);
}
