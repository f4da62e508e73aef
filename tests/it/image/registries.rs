//! Who may speak with which registry, how, and what it is told: the program itself, with the files that a host and a user
//! have.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stack::runtime::image::Digest;

use super::authority::{Authority, PASSWORD, REFRESH, TokenService};
use super::proxy::{Answer, Proxy, Request};
use super::sample;
use super::server::{Listener, Registry, basic_auth, gzip, layer_tar};
use crate::support::island::{HERE, on_an_island};
use crate::support::{Output, World, finish};

/// A user of a host: the files of both are in the world's directory.
pub struct User<'a> {
    pub world: &'a World,
}

impl User<'_> {
    fn environment(&self, command: &mut Command) {
        let at = |name: &str| self.world.directory.join(name);
        let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
        command.env("STACK_ETC", at("etc")).env("HOME", at("home")).env("PATH", path).env("XDG_RUNTIME_DIR", at("run"));
        for name in ["DOCKER_CONFIG", "XDG_CONFIG_HOME", "REGISTRY_AUTH_FILE", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"]
        {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = self.world.command(words);
        self.environment(&mut command);
        command
    }

    fn run_with(&self, words: &[&str], input: &str, variables: &[(&str, &str)]) -> Output {
        let mut command = self.command(words);
        command.envs(variables.iter().copied());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        finish(child, words)
    }

    fn run(&self, words: &[&str]) -> Output {
        self.run_with(words, "", &[])
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 0, "stack {}: {output:#?}", words.join(" "));
        output.stdout
    }

    /// What it says when it fails, which names what to do.
    #[track_caller]
    pub fn fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_eq!(output.code, 1, "stack {}: {output:#?}", words.join(" "));
        assert!(output.stderr.contains("help:"), "{}", output.stderr);
        output.stderr
    }

    /// As [`User::fails`], whatever the code.
    #[track_caller]
    pub fn run_fails(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert_ne!(output.code, 0, "stack {}: {output:#?}", words.join(" "));
        output.stderr
    }

    fn login(&self, registry: &str, password: &str) -> Output {
        self.run_with(&["login", "-u", PASSWORD.0, "--password-stdin", registry], password, &[])
    }

    /// docker's file of this user.
    fn docker(&self, config: &Value) {
        self.world.file("home/.docker/config.json", &config.to_string());
    }

    fn digest(&self, image: &str) -> String {
        self.ok(&["images", "--format", "{{.Digest}}", image]).trim().to_owned()
    }
}

fn encoded() -> String {
    STANDARD.encode(format!("{}:{}", PASSWORD.0, PASSWORD.1))
}

#[test]
fn a_login_counts_until_the_logout() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, Some(PASSWORD));
    let image = format!("{}/team/app:1", registry.address);
    registry.push("team/app", "1", &sample(), Some(PASSWORD));
    let anonymous = user.fails(&["pull", &image]);
    assert!(anonymous.contains("HTTP 401") && anonymous.contains("`stack login`"), "{anonymous}");

    let wrong = user.login(&registry.address, "guess");
    assert_eq!(wrong.code, 1);
    assert!(wrong.stderr.contains("the user or the password is wrong; nothing was kept"), "{}", wrong.stderr);
    let file = world.directory.join("home/.docker/config.json");
    assert!(!file.exists());

    let right = user.login(&registry.address, &format!("{}\n", PASSWORD.1));
    assert_eq!(right.code, 0, "{right:?}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "for its owner's eyes only");
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept["auths"][&registry.address]["auth"], encoded());
    user.ok(&["pull", &image]);
    user.ok(&["tag", &image, &format!("{}/team/other:2", registry.address)]);
    user.ok(&["push", &format!("{}/team/other:2", registry.address)]);

    user.docker(&json!({"auths": {&registry.address: {"auth": STANDARD.encode("ann:old")}}, "psFormat": "kept"}));
    let stale = user.fails(&["pull", &image]);
    assert!(stale.contains("config.json is wrong"), "{stale}");
    user.ok(&["logout", &registry.address]);
    let kept: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(kept, json!({"auths": {}, "psFormat": "kept"}), "what others keep there stays");
    user.fails(&["pull", &image]);
}

#[test]
fn tokens_are_asked_for_what_is_done_and_no_more() {
    let world = World::new();
    let user = User { world: &world };
    let open = Registry::start(&world.directory, None);
    open.push("public/app", "1", &sample(), None);
    open.push("private/app", "1", &sample(), None);
    drop(open);
    let tokens = TokenService::start(world.directory.join("tokens"), 1);
    let registry = Registry::with(&world.directory, |config| config["auth"] = tokens.auth("127.0.0.1"));
    let host = registry.address.as_str();
    let name = |name: &str| format!("{host}/{name}:1");
    // Nobody in particular; the service fails once.
    user.ok(&["pull", &name("public/app")]);
    let refused = user.fails(&["pull", &name("private/app")]);
    assert!(refused.contains("private/app") && refused.contains("`stack login`"), "{refused}");
    assert!(!tokens.server.was_told());

    assert_eq!(user.login(host, "guess").code, 1);
    assert_eq!(user.login(host, PASSWORD.1).code, 0);
    tokens.scopes.lock().unwrap().clear();
    user.ok(&["pull", &name("private/app")]);
    assert!(tokens.scopes.lock().unwrap().iter().all(|scope| scope == "repository:private/app:pull"));
    user.ok(&["tag", &name("private/app"), &name("private/copy")]);
    user.ok(&["push", &name("private/copy")]);
    assert!(tokens.scopes.lock().unwrap().iter().any(|scope| scope.contains("repository:private/copy:pull,push")));
    assert!(
        tokens
            .scopes
            .lock()
            .unwrap()
            .iter()
            .any(|scope| scope.contains("repository:private/app:pull ")
                || scope.ends_with("repository:private/app:pull"))
    );

    // A refresh token instead of a password.
    user.docker(&json!({"auths": {host: {"identitytoken": REFRESH}}}));
    user.ok(&["rmi", &name("private/app"), &name("private/copy")]);
    user.ok(&["pull", &name("private/copy")]);
    assert!(tokens.server.seen().last().unwrap().request.method == "POST");
    user.docker(&json!({"auths": {host: {"identitytoken": "old"}}}));
    user.fails(&["pull", &name("private/app")]);
}

#[test]
fn a_token_service_elsewhere_is_told_nothing_unless_the_host_says_so() {
    let world = World::new();
    let user = User { world: &world };
    let open = Registry::start(&world.directory, None);
    open.push("private/app", "1", &sample(), None);
    drop(open);
    let tokens = TokenService::start(world.directory.join("tokens"), 0);
    let registry = Registry::with(&world.directory, |config| config["auth"] = tokens.auth("localhost"));
    let host = registry.address.as_str();
    user.docker(&json!({"auths": {host: {"auth": encoded()}}}));
    let image = format!("{host}/private/app:1");
    let refused = user.fails(&["pull", &image]);
    assert!(refused.contains(&format!("[token_services] \"{host}\" = [\"localhost\"]")), "{refused}");
    assert!(!tokens.server.seen().is_empty() && !tokens.server.was_told());
    world.file("etc/stack/images.toml", &format!("[token_services]\n\"{host}\" = [\"localhost\"]\n"));
    user.ok(&["pull", &image]);
    assert!(tokens.server.was_told());
}

#[test]
fn a_private_authority_and_a_certificate_of_our_own_are_in_certs_d() {
    let world = World::new();
    let user = User { world: &world };
    let open = Registry::start(&world.directory, None);
    open.push("app", "1", &sample(), None);
    drop(open);
    let authority = Authority::new(world.directory.join("authority"));
    authority.certify("server", "IP:127.0.0.1");
    authority.certify("me", "DNS:me");
    let registry = Registry::with(&world.directory, |config| config["http"]["tls"] = authority.tls("server"));
    let image = format!("{}/app:1", registry.address);
    let begun = std::time::Instant::now();
    let unknown = user.fails(&["pull", &image]);
    assert!(unknown.contains("certs.d") && unknown.contains("https://"), "{unknown}");
    assert!(begun.elapsed().as_millis() < 1500, "asking again does not help: {:?}", begun.elapsed());

    let folder = format!("etc/docker/certs.d/{}", registry.address);
    let bad = world.file(&format!("{folder}/ca.crt"), "no certificate");
    let error = user.fails(&["pull", &image]);
    assert!(error.contains(&bad.display().to_string()) && error.contains("no certificate"), "{error}");
    fs::copy(authority.path("ca.crt"), &bad).unwrap();
    user.ok(&["pull", &image]);
    drop(registry);

    // The same again, where the registry wants to see a certificate.
    let registry = Registry::with(&world.directory, |config| {
        config["http"]["tls"] = authority.tls("server");
        config["http"]["tls"]["clientcas"] = json!([authority.path("ca.crt")]);
    });
    let image = format!("{}/app:1", registry.address);
    let folder = world.directory.join(format!("home/.config/containers/certs.d/{}", registry.address));
    fs::create_dir_all(&folder).unwrap();
    fs::copy(authority.path("ca.crt"), folder.join("ca.crt")).unwrap();
    let nobody = user.fails(&["pull", &image]);
    assert!(nobody.contains("ertificate"), "{nobody}");
    fs::copy(authority.path("me.crt"), folder.join("client.cert")).unwrap();
    let keyless = user.fails(&["pull", &image]);
    assert!(keyless.contains("client.key"), "{keyless}");
    fs::copy(authority.path("me.key"), folder.join("client.key")).unwrap();
    user.ok(&["pull", &image]);
}

/// What came in on a listener, and whether any of it was HTTP in the clear.
fn heard(address: &str) -> (Listener, Arc<Mutex<Vec<u8>>>) {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let log = heard.clone();
    let listener = Listener::on(address, move |mut stream: TcpStream| {
        let mut bytes = [0; 64];
        let count = stream.read(&mut bytes).unwrap_or(0);
        log.lock().unwrap().extend(&bytes[..count]);
    });
    (listener, heard)
}

#[test]
fn without_tls_or_trust_is_spoken_only_where_it_is_declared() {
    on_an_island(|island| {
        let world = &island.world;
        let user = User { world };
        // Nobody hears HTTP, whatever goes wrong with TLS.
        let (listener, bytes) = heard(&format!("{HERE}:4999"));
        user.fails(&["pull", &format!("{}/app:1", listener.address)]);
        assert!(bytes.lock().unwrap().starts_with(&[22, 3]), "a TLS hello: {bytes:?}");
        assert!(!String::from_utf8_lossy(&bytes.lock().unwrap()).contains("HTTP"));

        let plain = Registry::with(&world.directory, |config| config["http"]["addr"] = format!("{HERE}:5000").into());
        plain.push("app", "1", &sample(), None);
        let image = format!("{HERE}:5000/app:1");
        let refused = user.fails(&["pull", &image]);
        assert!(refused.contains("https://192.0.2.1:5000") && refused.contains("insecure"), "{refused}");
        world.file("etc/stack/images.toml", &format!("insecure = [\"{HERE}:5001\"]\n"));
        user.fails(&["pull", &image]);
        for (file, text) in [
            ("etc/stack/images.toml", format!("insecure = [\"{HERE}:5000\"]\n")),
            ("etc/stack/images.toml", "insecure = [\"192.0.2.0/24\"]\n".to_owned()),
            ("etc/docker/daemon.json", json!({"insecure-registries": [format!("{HERE}:5000")]}).to_string()),
        ] {
            world.file(file, &text);
            user.ok(&["pull", &image]);
            user.ok(&["rmi", &image]);
            fs::remove_file(world.directory.join(file)).unwrap();
        }
        drop(plain);

        // TLS by an authority that nobody knows.
        let authority = Authority::new(world.directory.join("authority"));
        authority.certify("server", "DNS:another.example");
        let secret = Registry::with(&world.directory, |config| {
            config["http"] = json!({"addr": format!("{HERE}:5002"), "tls": authority.tls("server")});
            config["auth"] = basic_auth(&world.directory, PASSWORD);
        });
        user.docker(&json!({"auths": {&secret.address: {"auth": encoded()}}}));
        let image = format!("{}/app:1", secret.address);
        let refused = user.fails(&["pull", &image]);
        assert!(refused.contains("certs.d"), "{refused}");
        world.file("etc/stack/images.toml", &format!("insecure = [\"{}\"]\n", secret.address));
        user.ok(&["pull", &image]);
    });
}

#[test]
fn mirrors_come_first_and_get_no_password_of_the_registry() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, Some(PASSWORD));
    registry.push("team/app", "1", &sample(), Some(PASSWORD));
    registry.push("library/app", "latest", &sample(), Some(PASSWORD));
    let origin = Proxy::start(&registry.address, |_, _, _| ());
    drop(fs::create_dir_all(world.directory.join("second")));
    let second = Registry::start(&world.directory.join("second"), None);
    second.push("team/app", "1", &sample(), None);
    second.push("library/app", "latest", &sample(), None);
    let mood = Arc::new(Mutex::new("fine"));
    let moods = mood.clone();
    let mirror = Proxy::start(&second.address, move |_, request, answer| match *moods.lock().unwrap() {
        "asks" => *answer = Answer::new(401, &[("www-authenticate", "Basic realm=\"mirror\"")], ""),
        "empty" if request.is_manifest() => *answer = Answer::new(404, &[], ""),
        "lies" if request.is_blob() && !answer.body.starts_with(b"{") => answer.body[20] ^= 1,
        "lost" if request.is_blob() => *answer = Answer::new(404, &[], ""),
        _ => {}
    });
    world.file(
        "etc/stack/images.toml",
        &format!("[mirrors]\n\"{}\" = [\"http://{}\"]\n", origin.address, mirror.address),
    );
    user.docker(&json!({"auths": {&origin.address: {"auth": encoded()}}}));
    let image = format!("{}/team/app:1", origin.address);
    user.ok(&["pull", &image]);
    assert!(origin.seen().is_empty(), "the mirror has everything");
    user.ok(&["rmi", &image]);
    for mood_now in ["asks", "empty", "lost", "lies"] {
        *mood.lock().unwrap() = mood_now;
        user.ok(&["pull", &image]);
        user.ok(&["rmi", &image]);
        assert!(origin.was_told(), "{mood_now}: the registry itself was asked");
    }
    assert!(!mirror.was_told(), "a mirror is another host");

    // docker's own file; its registry is not reached.
    *mood.lock().unwrap() = "fine";
    world.file(
        "etc/docker/daemon.json",
        &json!({"registry-mirrors": [format!("http://{}/", mirror.address)]}).to_string(),
    );
    let before = mirror.seen().len();
    assert_eq!(user.ok(&["pull", "app"]).trim(), "app:latest");
    assert!(mirror.seen()[before..].iter().any(|one| one.request.path == "/v2/library/app/manifests/latest"));
}

/// A helper of the test, that notes what it is told and answers what stands in a file.
fn helper(world: &World, name: &str) -> PathBuf {
    let (log, answer) = (world.directory.join(format!("{name}.log")), world.directory.join(format!("{name}.answer")));
    let script = format!(
        "#!/bin/sh\necho \"$1 $(cat)\" >>{}\n[ \"$1\" != get ] || cat {} || {{ echo credentials not found in native keychain; exit 1; }}\n",
        log.display(),
        answer.display()
    );
    let path = world.file(&format!("bin/docker-credential-{name}"), &script);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    log
}

#[test]
fn credential_helpers_are_asked_each_time() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, Some(PASSWORD));
    registry.push("app", "1", &sample(), Some(PASSWORD));
    let (host, image) = (registry.address.as_str(), format!("{}/app:1", registry.address));
    let log = helper(&world, "test");
    user.docker(&json!({"credHelpers": {host: "test"}}));
    user.fails(&["pull", &image]);
    world.file("test.answer", &json!({"ServerURL": host, "Username": PASSWORD.0, "Secret": "old"}).to_string());
    user.fails(&["pull", &image]);
    world.file("test.answer", &json!({"ServerURL": host, "Username": PASSWORD.0, "Secret": PASSWORD.1}).to_string());
    user.ok(&["pull", &image]);
    let told = fs::read_to_string(&log).unwrap();
    assert!(told.lines().count() >= 3 && told.lines().all(|line| line == format!("get {host}")), "{told}");
    assert!(!fs::read_to_string(world.directory.join("home/.docker/config.json")).unwrap().contains(PASSWORD.1));

    fs::remove_file(&log).unwrap();
    assert_eq!(user.login(host, PASSWORD.1).code, 0);
    user.ok(&["logout", host]);
    let told = fs::read_to_string(&log).unwrap();
    let (stored, erased) = (told.lines().next().unwrap(), told.lines().last().unwrap());
    let stored: Value = serde_json::from_str(stored.strip_prefix("store ").unwrap()).unwrap();
    assert_eq!(stored, json!({"ServerURL": host, "Username": PASSWORD.0, "Secret": PASSWORD.1}));
    assert_eq!(erased, format!("erase {host}"));

    // One that is not there, and one that fails, are said; `credsStore` is for all registries.
    for (name, script) in [("absent", None), ("broken", Some("#!/bin/sh\necho it is locked; exit 1\n"))] {
        user.docker(&json!({"credsStore": name}));
        if let Some(script) = script {
            let path = world.file(&format!("bin/docker-credential-{name}"), script);
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let said = user.fails(&["pull", &image]);
        assert!(said.contains(&format!("docker-credential-{name}")), "{said}");
    }
}

#[test]
fn passwords_of_podman_are_by_repository() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, Some(PASSWORD));
    for name in ["team/app", "other/app"] {
        registry.push(name, "1", &sample(), Some(PASSWORD));
    }
    let host = registry.address.as_str();
    let wrong = STANDARD.encode("ann:guess");
    let auths = json!({"auths": {host: {"auth": wrong}, format!("{host}/team"): {"auth": encoded()}}});
    world.file("run/containers/auth.json", &auths.to_string());
    user.ok(&["pull", &format!("{host}/team/app:1")]);
    user.fails(&["pull", &format!("{host}/other/app:1")]);
    let file =
        world.file("elsewhere.json", &json!({"auths": {format!("{host}/other/app"): {"auth": encoded()}}}).to_string());
    let variables = [("REGISTRY_AUTH_FILE", file.to_str().unwrap())];
    let pulled = user.run_with(&["pull", &format!("{host}/other/app:1")], "", &variables);
    assert_eq!(pulled.code, 0, "{pulled:?}");
}

#[test]
fn a_proxy_is_asked_where_the_environment_names_one() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &sample(), None);
    let (asked, target) = (Arc::new(Mutex::new(Vec::new())), registry.address.clone());
    let log = asked.clone();
    // Wherever somebody wants to go, they get to the registry.
    let proxy = Listener::start(move |mut client| {
        let Some(request) = Request::read(&mut client) else { return };
        log.lock().unwrap().push(format!("{} {}", request.method, request.path));
        let server = TcpStream::connect(&target).unwrap();
        client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        drop(std::io::copy(&mut &server, &mut &client));
    });
    world.file("etc/stack/images.toml", "insecure = [\"registry.test:5000\"]\n");
    let url = format!("http://{}", proxy.address);
    let image = "registry.test:5000/app:1";
    let pulled = user.run_with(&["pull", image], "", &[("HTTPS_PROXY", &url)]);
    assert_eq!(pulled.code, 0, "{pulled:?}");
    assert!(!asked.lock().unwrap().is_empty());
    assert!(asked.lock().unwrap().iter().all(|line| line == "CONNECT registry.test:5000"), "{asked:?}");
    asked.lock().unwrap().clear();
    let variables = [("HTTPS_PROXY", url.as_str()), ("NO_PROXY", "registry.test")];
    assert_eq!(user.run_with(&["pull", image], "", &variables).code, 1);
    let local = user.run_with(&["pull", &format!("{}/app:1", registry.address)], "", &[("HTTPS_PROXY", &url)]);
    assert_eq!(local.code, 0, "{local:?}");
    assert_eq!(*asked.lock().unwrap(), Vec::<String>::new(), "this host, and what is excepted, is reached directly");
}

#[test]
fn what_is_pushed_is_pulled_by_others_with_the_same_digest() {
    let (world, other) = (World::new(), World::new());
    let (user, reader) = (User { world: &world }, User { world: &other });
    let registry = Registry::with(&world.directory, |config| config["storage"]["delete"] = json!({"enabled": true}));
    let proxy = Proxy::start(&registry.address, |_, _, _| ());
    let host = proxy.address.as_str();
    let amd = registry.push("app", "amd", &sample(), None);
    let arm = registry.push_for("arm64", ("app", "arm"), &sample()[..1], None);
    registry.push_index("app", "all", &[("linux/arm64", &arm), ("linux/amd64", &amd)]);
    let image = format!("{host}/app:all");

    user.ok(&["pull", "--platform", "linux/arm64", &image]);
    let layers = |user: &User<'_>, name: &str| {
        user.ok(&["inspect", "--format", "{{len .RootFS.Layers}}", name]).trim().to_owned()
    };
    assert_eq!(layers(&user, &image), "1");
    user.ok(&["pull", &image]);
    assert_eq!(layers(&user, &image), "2");
    assert!(user.fails(&["pull", "--platform", "linux/s390x", &image]).contains("linux/arm64, linux/amd64"));
    assert!(user.fails(&["pull", "--platform", "a/b/c/d", &image]).contains("a/b/c/d"));
    let pinned = format!("{host}/app@{}", amd["digest"].as_str().unwrap());
    user.ok(&["pull", &pinned]);
    let missing = format!("{host}/app@sha256:{}", "0".repeat(64));
    assert!(user.fails(&["pull", &missing]).contains("does not have it"));

    // To another repository: mounted there, not sent.
    let pushed = user.ok(&["push", &pinned, &format!("{host}/copy:1")]);
    assert_eq!(pushed.trim(), format!("{host}/copy@{}", amd["digest"].as_str().unwrap()));
    let mounts =
        proxy.asked(|one| one.method == "POST" && one.path.contains("mount=sha256:") && one.path.contains("from=app"));
    assert_eq!((mounts.len(), proxy.asked(|one| one.method == "PATCH").len()), (3, 0));
    assert_eq!(proxy.asked(|one| one.method == "PUT").len(), 1, "the manifest");
    reader.ok(&["pull", &format!("{host}/copy:1")]);
    assert_eq!(reader.digest(&format!("{host}/copy:1")), amd["digest"]);
    user.ok(&["push", &pinned, &format!("{host}/copy:1")]);
    assert_eq!(proxy.asked(|one| one.method == "POST").len(), 3, "what is there is not sent again");

    assert_eq!(user.ok(&["registry", "tags", &format!("{host}/app")]), "all\namd\narm\n");
    user.ok(&["registry", "delete", &format!("{host}/copy:1")]);
    assert!(reader.fails(&["pull", &format!("{host}/copy:1")]).contains("does not have it"));
    for (tag, expected) in [("linux/amd64", 2), ("arm64", 1)] {
        reader.ok(&["pull", "--platform", tag, &format!("{host}/app:all")]);
        assert_eq!(layers(&reader, &format!("{host}/app:all")), expected.to_string());
    }
}

#[test]
fn a_large_blob_is_sent_in_pieces() {
    let (world, other) = (World::new(), World::new());
    let (user, reader) = (User { world: &world }, User { world: &other });
    let registry = Registry::start(&world.directory, None);
    let proxy = Proxy::start(&registry.address, |_, _, _| ());
    let noise: Vec<u8> =
        (0..9_000_000_u64).flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..4].to_vec()).collect();
    let tar = world.directory.join("layer.tar");
    fs::write(&tar, layer_tar(&[("noise", 0o644, &noise)])).unwrap();
    user.ok(&["import", tar.to_str().unwrap(), "large"]);
    let name = format!("{}/large:1", proxy.address);
    user.ok(&["push", "large", &name]);
    let pieces = proxy.asked(|one| one.method == "PATCH");
    assert!(pieces.len() >= 2, "{}", pieces.len());
    assert!(
        pieces.iter().all(|one| one.request.body.len() == 16 << 20 && one.request.header("content-range").is_some())
    );
    reader.ok(&["pull", &name]);
    assert_eq!(user.digest("large"), reader.digest(&name));
    let layer = fs::read_dir(other.roots.root.join("images/layers")).unwrap().next().unwrap().unwrap().path();
    assert!(fs::read(layer.join("fs/noise")).unwrap() == noise);
}

#[test]
fn lists_of_a_registry_go_on_page_by_page_and_stay_there() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let image = registry.push("app", "1", &sample(), None);
    let signature = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": image["digest"], "size": image["size"],
         "artifactType": "application/vnd.example.signature"}]});
    let hex = image["digest"].as_str().unwrap().replace(':', "-");
    registry.document("app", &hex, "application/vnd.oci.image.index.v1+json", &signature, None);
    let elsewhere =
        Proxy::answering("127.0.0.1:0", |_, _| Answer::new(200, &[], json!({"tags": ["evil"]}).to_string()));
    let away = elsewhere.address.clone();
    let proxy = Proxy::start(&registry.address, move |_, request, answer| {
        let page = |answer: &mut Answer, tags: &[&str], next: &str| {
            *answer =
                Answer::new(200, &[("link", &format!("<{next}>; rel=\"next\""))], json!({"tags": tags}).to_string());
        };
        match request.path.as_str() {
            "/v2/app/tags/list" => page(answer, &["a", "b\u{1b}[31m"], "/v2/app/tags/list?last=b"),
            "/v2/app/tags/list?last=b" => page(answer, &["c"], &format!("http://{away}/v2/app/tags/list")),
            _ => {}
        }
    });
    let tags = user.ok(&["registry", "tags", &format!("{}/app", proxy.address)]);
    assert!(tags.starts_with("a\nb") && tags.ends_with("c\n") && !tags.contains('\u{1b}'), "{tags:?}");
    assert!(elsewhere.seen().is_empty(), "the next page is on the same host");
    let referrers = user.ok(&["registry", "referrers", "--format", "json", &format!("{}/app:1", registry.address)]);
    let referrers: Value = serde_json::from_str(&referrers).unwrap();
    assert_eq!(referrers[0]["artifactType"], "application/vnd.example.signature");
    assert!(user.fails(&["registry", "delete", &format!("{}/app:1", registry.address)]).contains("does not do this"));
}

#[test]
fn layers_by_zstd_are_unpacked_also_when_they_are_chunked() {
    let world = World::new();
    let user = User { world: &world };
    let registry = Registry::start(&world.directory, None);
    let layer = layer_tar(&[("noise", 0o644, &vec![7; 300_000]), ("bin/tool", 0o755, b"tool")]);
    let plain = zstd::encode_all(layer.as_slice(), 3).unwrap();
    // zstd:chunked: frames of pieces, then its table in frames that other readers skip.
    let skipped = |text: &[u8]| [&0x184d_2a50_u32.to_le_bytes(), &(text.len() as u32).to_le_bytes(), text].concat();
    let (first, second) = layer.split_at(1000);
    let pieces = [first, second].map(|piece| zstd::encode_all(piece, 3).unwrap());
    let chunked =
        [pieces[0].clone(), skipped(b"{}"), pieces[1].clone(), skipped(b"table"), skipped(b"footer")].concat();
    // eStargz: a gzip member for each piece.
    let members = [gzip(first), gzip(second)].concat();
    for (tag, packed, kind) in [("plain", plain, "zstd"), ("chunked", chunked, "zstd"), ("members", members, "gzip")] {
        registry.push_packed("app", tag, &packed, kind, &Digest::of(&layer));
        let image = format!("{}/app:{tag}", registry.address);
        user.ok(&["pull", &image]);
        let folder = world.roots.root.join("images/layers").join(Digest::of(&layer).hex()).join("fs");
        assert_eq!(fs::read(folder.join("noise")).unwrap(), [7; 300_000], "{tag}");
        assert_eq!(fs::read(folder.join("bin/tool")).unwrap(), b"tool", "{tag}");
        user.ok(&["image", "verify"]);
        user.ok(&["rmi", &image]);
        assert!(!folder.exists());
    }
}
