//! Policies: what is refused and never reaches the store, what is let in, and who signed it. Signatures are made by openssl
//! and lie in a real registry as cosign puts them there.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use stack::runtime::image::Digest;

use super::locking::{file, runnable, says};
use super::registries::User;
use super::server::Registry;
use crate::support::World;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const SIGNS: &str = "https://sigstore.dev/cosign/sign/v1";

/// A registry with one image, and signers.
struct Scene {
    /// Before the world, which is left clean.
    registry: Option<Registry>,
    world: World,
    image: String,
    digest: String,
}

fn openssl(words: &[&str]) -> Vec<u8> {
    let output = Command::new("openssl").args(words).output().expect("openssl");
    assert!(output.status.success(), "openssl {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
    output.stdout
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let registry = Registry::start(&world.directory, None);
        let pushed = registry.push("team/app", "1", &runnable("one"), None);
        let image = format!("{}/team/app:1", registry.address);
        fs::create_dir_all(world.directory.join("etc/stack/keys")).unwrap();
        let digest = pushed["digest"].as_str().unwrap().to_owned();
        Self { world, registry: Some(registry), image, digest }
    }

    fn user(&self) -> User<'_> {
        User { world: &self.world }
    }

    fn registry(&self) -> &Registry {
        self.registry.as_ref().unwrap()
    }

    fn address(&self) -> &str {
        self.image.split('/').next().unwrap()
    }

    /// A signer of this kind; the path of the public key.
    fn signer(&self, name: &str, kind: &[&str]) -> PathBuf {
        let [private, public] =
            ["pem", "pub"].map(|end| self.world.directory.join(format!("etc/stack/keys/{name}.{end}")));
        let words = [&["genpkey", "-out", private.to_str().unwrap(), "-algorithm"], kind].concat();
        openssl(&words);
        openssl(&["pkey", "-in", private.to_str().unwrap(), "-pubout", "-out", public.to_str().unwrap()]);
        public
    }

    fn sign(&self, name: &str, message: &[u8]) -> String {
        let text = self.world.directory.join("message");
        fs::write(&text, message).unwrap();
        let key = self.world.directory.join(format!("etc/stack/keys/{name}.pem"));
        let common = ["-in", text.to_str().unwrap(), "-inkey", key.to_str().unwrap()];
        let of_whole = ["pkeyutl", "-sign", "-rawin"];
        // Ed25519 hashes by itself.
        let hash: &[&str] = if name == "ed" { &[] } else { &["-digest", "sha256"] };
        STANDARD.encode(openssl(&[&of_whole[..], &common, hash].concat()))
    }

    fn policy(&self, text: &str) {
        self.world.file("etc/stack/images.toml", text);
    }

    /// The host wants this signature for everything of the registry.
    fn wants(&self, keys: &str) {
        self.policy(&format!("[[policy.signatures]]\nimages = \"{}/team/*\"\nkey = {keys}\n", self.address()));
    }

    fn payload(&self, digest: &str) -> String {
        json!({"critical": {"identity": {"docker-reference": format!("{}/team/app", self.address())},
            "image": {"docker-manifest-digest": digest}, "type": "cosign container image signature"}, "optional": null})
        .to_string()
    }

    /// Puts simple signatures there, for the image with this digest: what is stored, and its signature.
    fn put_simple(&self, digest: &str, signatures: &[(&str, &str)]) {
        let registry = self.registry();
        let layer = |(payload, signature): &(&str, &str)| {
            let mut layer = registry.blob("team/app", payload.as_bytes(), None);
            layer["mediaType"] = SIMPLE.into();
            layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
            layer
        };
        let layers: Vec<Value> = signatures.iter().map(layer).collect();
        let mut config = registry.blob("team/app", b"{}", None);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        registry.document("team/app", &format!("{}.sig", digest.replace(':', "-")), MANIFEST, &manifest, None);
    }

    /// Puts bundles there, in the index under the tag that stands in for the referrers API.
    fn put_bundles(&self, bundles: &[Value]) {
        let registry = self.registry();
        let entries = bundles.iter().enumerate().map(|(number, bundle)| {
            let mut layer = registry.blob("team/app", bundle.to_string().as_bytes(), None);
            layer["mediaType"] = BUNDLE.into();
            let mut config = registry.blob("team/app", b"{}", None);
            config["mediaType"] = "application/vnd.oci.empty.v1+json".into();
            let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config,
                "layers": [layer], "subject": {"mediaType": MANIFEST, "digest": self.digest, "size": 1}});
            let mut entry = registry.document("team/app", &format!("bundle-{number}"), MANIFEST, &manifest, None);
            entry["artifactType"] = BUNDLE.into();
            entry
        });
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries.collect::<Vec<_>>()});
        registry.document("team/app", &self.digest.replace(':', "-"), INDEX, &index, None);
    }

    fn statement(&self, signer: &str, digest: &str, predicate: &str) -> Value {
        let statement = json!({"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
            "subject": [{"digest": {"sha256": digest.trim_start_matches("sha256:")}}]})
        .to_string();
        let message = format!("DSSEv1 {} {STATEMENT} {} {statement}", STATEMENT.len(), statement.len());
        json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": "x"}},
            "dsseEnvelope": {"payload": STANDARD.encode(&statement), "payloadType": STATEMENT,
                "signatures": [{"sig": self.sign(signer, message.as_bytes())}]}})
    }

    /// No way leads to a container or into the store; what is said.
    #[track_caller]
    fn refused(&self, reason: &str) {
        let user = self.user();
        file(&self.world, &self.image);
        self.world.file("Dockerfile", &format!("FROM {}\nRUN touch /x\n", self.image));
        let name = self.image.as_str();
        for words in [
            &["pull", name][..],
            &["run", "--rm", "--network", "none", name, "/bin/busybox", "true"],
            &["build", "-q", "--network", "none", "-t", "built", "."],
            &["plan"],
            &["apply"],
            &["pull", "--update"],
        ] {
            let output = crate::support::finish(
                user.command(words)
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped())
                    .spawn()
                    .unwrap(),
                words,
            );
            assert_ne!(output.code, 0, "{words:?}");
            assert!(output.stderr.contains(reason) && output.stderr.contains("help:"), "{words:?}: {}", output.stderr);
        }
        assert_eq!(user.ok(&["images", "-a", "-q"]), "", "nothing was fetched");
        let store = self.world.roots.root.join("images");
        for folder in ["layers", "blobs/sha256", "downloads", "signatures"] {
            let left = fs::read_dir(store.join(folder)).map(Iterator::count).unwrap_or(0);
            assert_eq!(left, 0, "{folder}");
        }
        assert!(self.world.names().is_empty());
        assert!(!self.world.directory.join("stack.lock").exists());
    }

    /// Every way leads to a container, and what the plan says.
    #[track_caller]
    fn allowed(&self) -> String {
        let user = self.user();
        file(&self.world, &self.image);
        self.world.file("Dockerfile", &format!("FROM {}\nRUN [\"/bin/busybox\", \"touch\", \"/x\"]\n", self.image));
        let plan = user.ok(&["plan"]);
        user.ok(&["apply"]);
        says(&user, "one");
        assert_eq!(user.ok(&["run", "--rm", "--network", "none", &self.image, "/bin/busybox", "echo", "ran"]), "ran\n");
        user.ok(&["build", "-q", "--network", "none", "-t", "built", "."]);
        // What was built here is the host's own.
        assert_eq!(user.ok(&["run", "--rm", "--network", "none", "built", "/bin/busybox", "ls", "/x"]), "/x\n");
        user.ok(&["destroy"]);
        plan
    }

    fn forget(&self) {
        self.user().ok(&["image", "prune", "-a", "-f"]);
        let kept = self.world.roots.root.join("images/signatures");
        assert_eq!(fs::read_dir(kept).map(Iterator::count).unwrap_or(0), 0, "a signature goes with its image");
    }
}

const P256: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

#[test]
fn only_listed_registries_and_digests_where_they_are_wanted() {
    let scene = Scene::new();
    let (user, host) = (scene.user(), scene.address().to_owned());
    scene.policy("[policy]\nregistries = [\"docker.io/library/*\"]\n");
    scene.refused(&format!("does not list {host}/team/app"));
    scene.policy(&format!("[policy]\nregistries = [\"{host}/team/apps/*\", \"{host}/team\"]\n"));
    scene.refused(&format!("does not list {host}/team/app"));
    scene.policy("[policy]\ndigest = \"required\"\n");
    let error = user.fails(&["pull", &scene.image]);
    assert!(error.contains("wants a digest, and this is a tag"), "{error}");
    user.ok(&["pull", &format!("{}@{}", scene.image, scene.digest)]);
    user.ok(&[
        "run",
        "--rm",
        "--network",
        "none",
        &format!("{}@{}", scene.image, scene.digest),
        "/bin/busybox",
        "true",
    ]);
    user.ok(&["image", "prune", "-a", "-f"]);
    scene.policy(&format!("[policy]\nregistries = [\"{host}/team/*\"]\n"));
    scene.allowed();

    // What is here already is no way around it, under whatever name.
    user.ok(&["tag", &scene.image, "docker.io/library/alias:1"]);
    scene.policy("[policy]\nregistries = [\"docker.io/library/*\"]\n");
    for name in [scene.image.as_str(), "alias:1"] {
        let error = user.run_fails(&["run", "--rm", "--network", "none", name, "/bin/busybox", "true"]);
        assert!(error.contains(&format!("does not list {host}/team/app")), "{error}");
        file(&scene.world, name);
        let error = user.fails(&["apply"]);
        assert!(
            error.contains(&format!("does not list {host}/team/app")) && error.contains("stack.yaml:4:12"),
            "{error}"
        );
    }
    assert!(scene.world.names().is_empty());
}

#[test]
fn a_policy_that_is_not_understood_refuses_everything() {
    let scene = Scene::new();
    let user = scene.user();
    file(&scene.world, &scene.image);
    for (text, reason) in [
        ("[policy]\nregistry = []\n", "unknown field `registry`"),
        ("[policy]\ndigest = \"wanted\"\n", "unknown variant `wanted`"),
        ("[policy]\nregistries = [\"nginx\"]\n", "is no name of images"),
        ("[[policy.signatures]]\nimages = \"*\"\n", "missing field `key`"),
        (
            "[[policy.signatures]]\nimages = \"*\"\nkey = \"x\"\nidentity = \"me@example.com\"\n",
            "unknown field `identity`",
        ),
    ] {
        scene.policy(text);
        for words in [&["apply"][..], &["plan"], &["pull", &scene.image]] {
            let error = user.fails(words);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
    fs::remove_file(scene.world.directory.join("etc/stack/images.toml")).unwrap();
    let head = fs::read_to_string(scene.world.directory.join("stack.yaml")).unwrap();
    for (policy, reason) in [
        ("{registry: []}", "unknown key `registry` in `policy`"),
        ("{digest: wanted}", "`wanted` is not one of `required`"),
        ("{registries: [nginx]}", "is no name of images"),
        ("{signatures: [{images: \"*\"}]}", "expected whose signature"),
        ("{registries: []}", "does not list"),
    ] {
        scene.world.file("stack.yaml", &format!("{head}policy: {policy}\n"));
        let error = user.run_fails(&["apply"]);
        assert!(error.contains(reason) && error.contains("stack.yaml:"), "{policy}: {error}");
    }
    let compose =
        format!("services: {{web: {{image: \"{}\"}}}}\nx-stack: {{policy: {{digest: required}}}}\n", scene.image);
    scene.world.file("compose.yaml", &compose);
    assert!(user.fails(&["apply", "compose.yaml"]).contains("wants a digest"));
    assert_eq!(user.ok(&["images", "-a", "-q"]), "");
}

#[test]
fn a_simple_signature_counts_only_whole_and_of_this_image() {
    let scene = Scene::new();
    let key = scene.signer("team", P256);
    scene.signer("other", P256);
    scene.wants("\"keys/team.pub\"");
    let digest = scene.digest.clone();
    scene.refused("there is no signature");
    let payload = scene.payload(&digest);
    scene.put_simple(&digest, &[(&payload, &scene.sign("other", payload.as_bytes()))]);
    scene.refused("signed by another key, or was changed since");
    let good = scene.sign("team", payload.as_bytes());
    scene.put_simple(&digest, &[(&payload.replace("null", "{}"), &good)]);
    scene.refused("signed by another key, or was changed since");
    scene.put_simple(&digest, &[(&payload, "!!!")]);
    scene.refused("no base64");
    // The signature of another image of the same team, put where this one's is looked for.
    let other = scene.registry().push("team/app", "2", &runnable("two"), None)["digest"].as_str().unwrap().to_owned();
    let of_other = scene.payload(&other);
    scene.put_simple(&digest, &[(&of_other, &scene.sign("team", of_other.as_bytes()))]);
    scene.refused("the signature of another image");
    let wrong = payload.replace("cosign container image signature", "atomic container signature");
    scene.put_simple(&digest, &[(&wrong, &scene.sign("team", wrong.as_bytes()))]);
    scene.refused("not of an image");
    let twice = payload.replacen(
        '{',
        &format!("{{\"critical\":{},", json!({"image": {"docker-manifest-digest": digest}, "type": "x"})),
        1,
    );
    scene.put_simple(&digest, &[(&twice, &scene.sign("team", twice.as_bytes()))]);
    scene.refused("stands twice");

    // One that is good among others is enough.
    scene.put_simple(
        &digest,
        &[(&payload, "!!!"), (&payload, &scene.sign("other", payload.as_bytes())), (&payload, &good)],
    );
    let plan = scene.allowed();
    assert!(plan.contains(&format!("is signed by {}", key.parent().unwrap().join("team.pub").display())), "{plan}");
    scene.forget();
}

#[test]
fn keys_that_cannot_be_used_and_registries_that_are_down_refuse() {
    let mut scene = Scene::new();
    scene.signer("team", P256);
    let digest = scene.digest.clone();
    let payload = scene.payload(&digest);
    scene.put_simple(&digest, &[(&payload, &scene.sign("team", payload.as_bytes()))]);
    scene.wants("\"keys/none.pub\"");
    scene.refused("No such file");
    scene.wants("\"keys/team.pem\"");
    scene.refused("it is a private key");
    scene.wants("[]");
    scene.refused("is not signed by");
    // By the stack's file, on top of the host's.
    scene.wants("\"keys/team.pub\"");
    scene.signer("second", P256);
    file(&scene.world, &scene.image);
    let text = fs::read_to_string(scene.world.directory.join("stack.yaml")).unwrap();
    let policy =
        format!("policy: {{signatures: [{{images: \"{}/*\", key: etc/stack/keys/second.pub}}]}}\n", scene.address());
    scene.world.file("stack.yaml", &format!("{text}{policy}"));
    let error = scene.user().fails(&["apply"]);
    assert!(error.contains("not signed by") && error.contains("keys/second.pub"), "{error}");
    assert!(scene.world.names().is_empty());
    let second = scene.sign("second", payload.as_bytes());
    scene.put_simple(&digest, &[(&payload, &scene.sign("team", payload.as_bytes())), (&payload, &second)]);
    let plan = scene.user().ok(&["plan"]);
    assert!(plan.contains("team.pub and ") && plan.contains("keys/second.pub"), "{plan}");
    scene.user().ok(&["apply"]);
    scene.user().ok(&["destroy"]);

    // What was verified once is known without the registry, but only by a key that still counts.
    scene.registry = None;
    file(&scene.world, &scene.image);
    scene.user().ok(&["apply"]);
    scene.user().ok(&["destroy"]);
    scene.signer("third", P256);
    scene.wants("\"keys/third.pub\"");
    let error = scene.user().fails(&["apply"]);
    assert!(error.contains("can't be looked for") && error.contains("is refused"), "{error}");
    let pinned = format!("{}@{}", scene.image, scene.digest);
    let error = scene.user().run_fails(&["run", "--network", "none", &pinned, "/bin/busybox", "true"]);
    assert!(error.contains("can't be looked for"), "{error}");
    assert!(scene.world.names().is_empty());
}

#[test]
fn bundles_are_read_with_keys_of_every_kind() {
    let scene = Scene::new();
    scene.signer("team", P256);
    scene.signer("ed", &["ED25519"]);
    scene.signer("rsa", &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"]);
    scene.wants("[\"keys/team.pub\", \"keys/ed.pub\", \"keys/rsa.pub\"]");
    let digest = scene.digest.clone();
    let other = Digest::of(b"another").to_string();
    scene.put_bundles(&[scene.statement("team", &other, SIGNS)]);
    scene.refused("the signature of another image");
    // The same team says something else about the image: where it was built.
    scene.put_bundles(&[scene.statement("team", &digest, "https://slsa.dev/provenance/v1")]);
    scene.refused("no signature");
    let mut unknown = scene.statement("team", &digest, SIGNS);
    unknown["mediaType"] = "application/vnd.dev.sigstore.bundle.v9+json".into();
    scene.put_bundles(&[unknown]);
    scene.refused("is unknown");
    let mut tampered = scene.statement("team", &digest, SIGNS);
    let statement = STANDARD.decode(tampered["dsseEnvelope"]["payload"].as_str().unwrap()).unwrap();
    let statement = String::from_utf8(statement).unwrap().replace("\"predicate\":{}", "\"predicate\":{\"a\":1}");
    tampered["dsseEnvelope"]["payload"] = STANDARD.encode(statement).into();
    scene.put_bundles(&[tampered]);
    scene.refused("changed since");
    scene.signer("stranger", P256);
    let mut keyless = scene.statement("stranger", &digest, SIGNS);
    keyless["verificationMaterial"] = json!({"certificate": {"rawBytes": "AAAA"}});
    scene.put_bundles(&[keyless]);
    scene.refused("the transparency log: not supported");

    for signer in ["team", "ed", "rsa"] {
        scene.put_bundles(&[json!({"mediaType": BUNDLE}), scene.statement(signer, &digest, SIGNS)]);
        scene.user().ok(&["pull", "-q", &scene.image]);
        scene.user().ok(&["run", "--rm", "--network", "none", &scene.image, "/bin/busybox", "true"]);
        scene.forget();
    }
    // A signature of the manifest's own text.
    let manifest = ureq::get(format!("http://{}/v2/team/app/manifests/1", scene.address()))
        .header("accept", MANIFEST)
        .call()
        .unwrap()
        .body_mut()
        .read_to_string()
        .unwrap();
    let message = json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}},
        "messageSignature": {"messageDigest": {"algorithm": "SHA2_256", "digest": "AAAA"},
            "signature": scene.sign("team", manifest.as_bytes())}});
    scene.put_bundles(std::slice::from_ref(&message));
    let plan = scene.allowed();
    assert!(plan.contains("keys/team.pub"), "{plan}");
}

#[test]
fn what_was_verified_is_what_runs() {
    let scene = Scene::new();
    let user = scene.user();
    scene.signer("team", P256);
    scene.wants("\"keys/team.pub\"");
    let payload = scene.payload(&scene.digest);
    scene.put_simple(&scene.digest, &[(&payload, &scene.sign("team", payload.as_bytes()))]);
    file(&scene.world, &scene.image);
    user.ok(&["plan", "-o", "saved"]);
    // Between the plan and its execution the registry gives the tag to somebody else.
    scene.registry().push("team/app", "1", &runnable("two"), None);
    user.ok(&["apply", "--plan", "saved"]);
    says(&user, "one");
    let error = user.fails(&["pull", &scene.image]);
    assert!(error.contains("there is no signature"), "{error}");
    let error = user.fails(&["pull", "--update"]);
    assert!(error.contains("there is no signature"), "{error}");
    // An image that came before the policy is no way around it.
    user.ok(&["destroy"]);
    user.ok(&["image", "prune", "-a", "-f"]);
    scene.policy("");
    user.ok(&["pull", &scene.image]);
    scene.wants("\"keys/team.pub\"");
    assert!(
        user.run_fails(&["run", "--network", "none", &scene.image, "/bin/busybox", "true"])
            .contains("there is no signature")
    );
    assert!(user.fails(&["apply"]).contains("there is no signature"));
    assert!(scene.world.names().is_empty());
}
