//! Registries that fail, lie, or never end: a real one with a proxy in front. Each ends as the table says; what is refused
//! leaves nothing half made, and the next pull through the same proxy works.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;
use stack::runtime::image::{Access, Credentials, Digest, Image, PullOptions, Wait};

use super::World;
use super::proxy::{Answer, End, Proxy, Request};
use super::server::{Registry, gzip, layer_tar};

type Rule = fn(usize, &Request, &mut Answer);

/// How a pull ends.
enum Outcome {
    /// All the same.
    Works,
    /// The error says all of this.
    Says(&'static [&'static str]),
}
use Outcome::{Says, Works};

/// The noise is what does not shrink: its blob is the larger one.
fn noise() -> Vec<u8> {
    (0..100_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect()
}

fn layers() -> Vec<Vec<u8>> {
    vec![layer_tar(&[("bin/tool", 0o755, b"tool")]), layer_tar(&[("noise", 0o644, &noise())])]
}

/// Whether the answer is a good one with the large blob, or a part of it.
fn is_large(request: &Request, answer: &Answer) -> bool {
    request.is_blob() && answer.status < 300 && (request.header("range").is_some() || answer.body.len() > 100_000)
}

fn is_config(request: &Request, answer: &Answer) -> bool {
    request.is_blob() && answer.body.starts_with(b"{")
}

fn replace(answer: &mut Answer, text: impl Into<String>) {
    answer.headers.retain(|(key, _)| key != "docker-content-digest");
    answer.body = text.into().into_bytes();
}

/// The manifest with something else in it.
fn edited(answer: &mut Answer, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut document = serde_json::from_slice(&answer.body).unwrap();
    edit(&mut document);
    replace(answer, document.to_string());
}

const BREAKS: &[(&str, Outcome, Rule)] = &[
    ("a layer is cut again and again", Works, |_, request, answer| {
        if is_large(request, answer) && answer.body.len() > 60_000 {
            answer.end = End::Cut(50_000);
        }
    }),
    (
        "a layer is cut at its beginning, always",
        Says(&["layer of 127.0.0.1", "broke off after 0 of", "try again"]),
        |_, request, answer| {
            if is_large(request, answer) {
                answer.end = End::Cut(0);
            }
        },
    ),
    ("the manifest is cut once", Works, |count, _, answer| {
        if count == 1 {
            answer.end = End::Cut(40);
        }
    }),
    (
        "the manifest is cut always",
        Says(&["manifest 1 of 127.0.0.1", "broke off after 40 of"]),
        |_, request, answer| {
            if request.is_manifest() {
                answer.end = End::Cut(40);
            }
        },
    ),
    ("the configuration is cut always", Says(&["configuration of", "broke off after 10 of"]), |_, request, answer| {
        if is_config(request, answer) {
            answer.end = End::Cut(10);
        }
    }),
    ("no connection lives", Says(&["127.0.0.1", "check that the registry runs"]), |_, _, answer| {
        answer.end = End::Dead
    }),
    ("the first three connections die", Works, |count, _, answer| {
        if (1..4).contains(&count) {
            answer.end = End::Dead;
        }
    }),
    ("no answer comes", Says(&["/manifests/1", "no answer within 1 s", "check the network"]), |_, request, answer| {
        if request.is_manifest() {
            answer.end = End::Mute;
        }
    }),
    (
        "a layer stalls always",
        Says(&["layer of 127.0.0.1", "broke off after 0 of", "no byte came for 1 s"]),
        |_, request, answer| {
            if is_large(request, answer) {
                answer.end = End::Stall(0);
            }
        },
    ),
    ("a layer stalls in its middle", Works, |_, request, answer| {
        if is_large(request, answer) && request.header("range").is_none() {
            answer.end = End::Stall(200_000);
        }
    }),
    ("ranges are ignored", Works, |count, request, answer| {
        if is_large(request, answer) {
            if request.header("range").is_some() {
                *answer = Answer::new(200, &[], gzip(&layers()[1]));
            } else if count < 8 {
                answer.end = End::Cut(100_000);
            }
        }
    }),
    ("ranges are refused", Works, |count, request, answer| {
        if is_large(request, answer) {
            if request.header("range").is_some() {
                *answer = Answer::new(416, &[], "");
            } else if count < 8 {
                answer.end = End::Cut(100_000);
            }
        }
    }),
    ("ranges lie", Works, |count, request, answer| {
        if is_large(request, answer) {
            if request.header("range").is_some() {
                let part = gzip(&layers()[1])[7..].to_vec();
                let range = format!("bytes 7-{}/{}", part.len() + 6, part.len() + 7);
                *answer = Answer::new(206, &[("content-range", &range)], part);
            } else if count < 8 {
                answer.end = End::Cut(100_000);
            }
        }
    }),
];

const LIES: &[(&str, Outcome, Rule)] = &[
    (
        "a byte of a layer is another",
        Says(&["layer of 127.0.0.1", "expected sha256:", "nothing of it was kept"]),
        |_, request, answer| {
            if is_large(request, answer) {
                answer.body[1000] ^= 1;
            }
        },
    ),
    (
        "a byte of the configuration is another",
        Says(&["configuration of", "expected sha256:"]),
        |_, request, answer| {
            if is_config(request, answer) {
                answer.body[20] ^= 1;
            }
        },
    ),
    (
        "the manifest is not what the registry calls it",
        Says(&["manifest of", "expected sha256:"]),
        |_, request, answer| {
            if request.is_manifest() {
                answer.body.push(b' ');
            }
        },
    ),
    (
        "a layer is shorter than the manifest says",
        Says(&["blob sha256:", "the manifest says", "the registry has 5000"]),
        |_, request, answer| {
            if is_large(request, answer) {
                answer.body.truncate(5000);
            }
        },
    ),
    ("a layer is longer than the manifest says", Says(&["blob sha256:", "the manifest says"]), |_, request, answer| {
        if is_large(request, answer) {
            answer.body.extend([0; 5000]);
        }
    }),
    ("the manifest says less of a layer than there is", Says(&["the manifest says 5 bytes"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"][1]["size"] = 5.into());
        }
    }),
    ("a layer's digest is another one's", Says(&["layer"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"][1] = document["layers"][0].clone());
        }
    }),
    ("a digest of another kind", Says(&["manifest", "sha512"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"][0]["digest"] = format!("sha512:{}", "a".repeat(64)).into());
        }
    }),
    ("a content type that lies", Works, |_, request, answer| {
        if request.is_manifest() {
            answer.set("content-type", "application/vnd.oci.image.index.v1+json");
        } else {
            answer.set("content-type", "text/html");
        }
    }),
    ("a page for people", Says(&["manifest", "expected value", "whoever publishes it"]), |_, request, answer| {
        if request.is_manifest() {
            *answer = Answer::new(200, &[("content-type", "text/html")], "<html>log in to this network</html>");
        }
    }),
    ("a manifest without end", Says(&["manifest 1", "larger than 4194304 bytes"]), |_, request, answer| {
        if request.is_manifest() {
            replace(answer, " ".repeat(5 << 20));
        }
    }),
    ("JSON that is too deep", Says(&["manifest", "deeper than 64"]), |_, request, answer| {
        if request.is_manifest() {
            replace(answer, format!("{{\"a\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000)));
        }
    }),
    ("a key that stands twice", Says(&["manifest", "stands twice"]), |_, request, answer| {
        if request.is_manifest() {
            let text = String::from_utf8_lossy(&answer.body).replacen('{', "{\"schemaVersion\":2,", 1);
            replace(answer, text);
        }
    }),
    ("both a manifest and an index", Says(&["at once"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["manifests"] = json!([]));
        }
    }),
    ("schema 1", Says(&["schema version 1", "push the image again"]), |_, request, answer| {
        if request.is_manifest() {
            replace(
                answer,
                json!({"schemaVersion": 1, "name": "app", "tag": "1", "fsLayers": [], "history": []}).to_string(),
            );
        }
    }),
    (
        "an artifact",
        Says(&["artifact of type \"application/vnd.cncf.helm.config.v1+json\"", "not an image"]),
        |_, request, answer| {
            if request.is_manifest() {
                edited(answer, |document| {
                    document["config"]["mediaType"] = "application/vnd.cncf.helm.config.v1+json".into();
                });
            }
        },
    ),
    ("indexes without end", Says(&["index", "too deep"]), |_, request, answer| {
        if request.is_manifest() {
            fn index(depth: usize) -> String {
                let next = if depth == 0 { "{}".to_owned() } else { index(depth - 1) };
                json!({"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.index.v1+json",
                    "digest": Digest::of(next.as_bytes()), "size": next.len(),
                    "platform": {"os": "linux", "architecture": "amd64"}}]})
                .to_string()
            }
            let known: Vec<String> = (0..8).rev().map(index).collect();
            let asked = request.path.rsplit('/').next().unwrap();
            let found = known.iter().find(|text| Digest::of(text.as_bytes()).to_string() == asked);
            *answer = Answer::new(200, &[], found.unwrap_or(&known[0]).clone());
        }
    }),
    ("layers of another host", Says(&["can't be unpacked"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| {
                let kind = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
                document["layers"][0]["mediaType"] = kind.into();
                document["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]);
            });
        }
    }),
    ("urls besides a good layer", Works, |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"][0]["urls"] = json!(["http://127.0.0.1:1/layer"]));
        }
    }),
    ("a configuration that is a layer", Says(&["one of its layers"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"][0]["digest"] = document["config"]["digest"].clone());
        }
    }),
    (
        "one layer fewer than the configuration has",
        Says(&["it names 2 layers, the manifest 1"]),
        |_, request, answer| {
            if request.is_manifest() {
                edited(answer, |document| drop(document["layers"].as_array_mut().unwrap().pop()));
            }
        },
    ),
    ("too many layers", Says(&["501 layers, more than 500"]), |_, request, answer| {
        if request.is_manifest() {
            edited(answer, |document| document["layers"] = json!(vec![document["layers"][0].clone(); 501]));
        }
    }),
    (
        "a redirect to itself",
        Says(&["redirects to", "one redirect too many", "registry's owner"]),
        |_, request, answer| {
            if is_large(request, answer) {
                *answer = Answer::new(307, &[("location", &format!("{}?token=s3cret", request.path))], "");
            }
        },
    ),
    ("a redirect out of TLS", Says(&["redirects to http://registry.invalid/x", "plain HTTP"]), |_, request, answer| {
        if is_large(request, answer) {
            *answer = Answer::new(302, &[("location", "http://registry.invalid/x?token=s3cret")], "");
        }
    }),
    ("a redirect to a file", Says(&["redirects to file:///etc/shadow", "not a URL"]), |_, request, answer| {
        if is_large(request, answer) {
            *answer = Answer::new(302, &[("location", "file:///etc/shadow")], "");
        }
    }),
    ("a redirect to nowhere", Says(&["redirects to", "not a URL"]), |_, request, answer| {
        if is_large(request, answer) {
            *answer = Answer::new(302, &[], "");
        }
    }),
];

const MOODS: &[(&str, Outcome, Rule)] = &[
    ("it is busy once", Works, |count, _, answer| {
        if count == 1 {
            *answer = Answer::new(429, &[("retry-after", "1")], "");
        }
    }),
    ("it is busy always", Says(&["HTTP 429", "calm down", "try again later"]), |_, request, answer| {
        if request.is_manifest() {
            let body = json!({"errors": [{"code": "TOOMANYREQUESTS", "message": "calm down\u{1b}[31m"}]});
            *answer = Answer::new(429, &[("retry-after", "0")], body.to_string());
        }
    }),
    ("it fails twice", Works, |count, _, answer| {
        if (1..3).contains(&count) {
            *answer = Answer::new(500, &[], "");
        }
    }),
    ("it fails always", Says(&["HTTP 503", "try again later"]), |_, request, answer| {
        if request.is_blob() {
            *answer = Answer::new(503, &[], "<html>not JSON</html>");
        }
    }),
    (
        "it does not know the image",
        Says(&["app:1: the registry does not have it", "check the name"]),
        |_, request, answer| {
            if request.is_manifest() {
                *answer = Answer::new(404, &[], "");
            }
        },
    ),
    ("it lost a layer", Says(&["/blobs/sha256:", "HTTP 404"]), |_, request, answer| {
        if is_large(request, answer) {
            *answer = Answer::new(404, &[], "");
        }
    }),
    ("it wants to know who we are, and not how to say it", Says(&["HTTP 401", "stack login"]), |_, request, answer| {
        if request.is_manifest() {
            *answer = Answer::new(401, &[], "");
        }
    }),
    ("it does not let us", Says(&["HTTP 403", "stack login"]), |_, request, answer| {
        if request.is_manifest() {
            *answer = Answer::new(403, &[], "");
        }
    }),
    ("it teaches tea", Says(&["HTTP 418"]), |_, request, answer| {
        if request.is_manifest() {
            *answer = Answer::new(418, &[], "");
        }
    }),
];

fn check_layers(image: &Image) {
    assert!(fs::read(image.layers[1].join("noise")).unwrap() == noise());
    assert_eq!(fs::read(image.layers[0].join("bin/tool")).unwrap(), b"tool");
}

/// Pulls while the proxy misbehaves, then when it behaves.
fn check(registry: &Registry, (name, outcome, rule): &(&str, Outcome, Rule)) {
    let world = World::with_settings("[limits]\nstall_seconds = 1");
    let (on, rule) = (Arc::new(AtomicBool::new(true)), *rule);
    let misbehaves = on.clone();
    let proxy = Proxy::start(&registry.address, move |count, request, answer| {
        if misbehaves.load(Ordering::SeqCst) {
            rule(count, request, answer);
        }
    });
    let image = format!("{}/app:1", proxy.address);
    let begun = Instant::now();
    let pulled = world.pull(&image);
    assert!(begun.elapsed() < Duration::from_secs(25), "{name}: {:?}", begun.elapsed());
    match (outcome, pulled) {
        (Works, pulled) => check_layers(&pulled.unwrap_or_else(|error| panic!("{name}: {error}"))),
        (Says(words), Err(error)) => {
            let said = error.to_string();
            let missing: Vec<_> = words.iter().filter(|word| !said.contains(**word)).collect();
            assert!(missing.is_empty(), "{name}: no {missing:?} in {said}");
            assert!(said.contains("help: "), "{name}: what is to be done? {said}");
            assert!(!said.contains("s3cret") && !said.contains('\u{1b}'), "{name}: {said}");
            assert!(world.store.list().unwrap().is_empty(), "{name}");
            assert_eq!(world.everything(), Vec::<String>::new(), "{name}: something half made stays");
        }
        (Says(_), Ok(image)) => panic!("{name}: it was accepted: {image:?}"),
    }
    on.store(false, Ordering::SeqCst);
    check_layers(&world.pull(&image).unwrap_or_else(|error| panic!("{name}, afterwards: {error}")));
    assert_eq!((world.rest("downloads"), world.rest("tmp")), (vec![], vec![]), "{name}");
}

/// All at once, since they mostly wait.
fn check_all(table: &'static [(&'static str, Outcome, Rule)]) {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &layers(), None);
    std::thread::scope(|scope| {
        let checks: Vec<_> = table.iter().map(|row| (row.0, scope.spawn(|| check(&registry, row)))).collect();
        let failed: Vec<_> = checks.into_iter().filter_map(|(name, check)| check.join().err().map(|_| name)).collect();
        assert!(failed.is_empty(), "{failed:?}");
    });
}

#[test]
fn connections_that_break_are_resumed_or_told() {
    check_all(BREAKS);
}

#[test]
fn what_a_registry_lies_about_is_refused_whole() {
    check_all(LIES);
}

#[test]
fn a_registry_in_a_bad_mood_is_asked_again_or_told() {
    check_all(MOODS);
}

/// As its digest says, but no image all the same.
#[test]
fn what_is_no_image_is_refused_although_its_digest_is_right() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    let layer = gzip(&layers()[0]);
    let good = Digest::of(&layers()[0]);
    let config = |config: serde_json::Value, diff_id: &Digest| {
        json!({"architecture": "amd64", "os": "linux", "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
    };
    let mut tail = layer.clone();
    tail.extend(b"garbage");
    let mut sum = layer.clone();
    let end = sum.len() - 6;
    sum[end] ^= 1;
    let half = &layer[..layer.len() / 2];
    let other = Digest::of(b"another");
    for (name, layer, config, expected) in [
        ("a user beyond numbers", layer.as_slice(), config(json!({"User": "4294967296"}), &good), "User"),
        ("words of the wrong type", &layer, config(json!({"Env": {"A": "b"}}), &good), "expected a sequence"),
        ("another diff_id", &layer, config(json!({}), &other), "expected sha256:"),
        ("half a stream", half, config(json!({}), &good), "archive can't be read"),
        ("a wrong sum", &sum, config(json!({}), &good), "archive can't be read"),
        ("garbage behind the stream", &tail, config(json!({}), &good), "archive can't be read"),
        (
            "no archive",
            b"not a tar, and long enough to be one".as_slice(),
            config(json!({}), &good),
            "ends within a header",
        ),
    ] {
        let tag = name.replace(' ', "-");
        let mut packed = registry.blob("app", layer, None);
        packed["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
        let mut config = registry.blob("app", config.to_string().as_bytes(), None);
        config["mediaType"] = "application/vnd.oci.image.config.v1+json".into();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [packed]});
        registry.document("app", &tag, kind, &manifest, None);
        let error = world.pull(&format!("{}/app:{tag}", registry.address)).unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(world.everything(), Vec::<String>::new(), "{name}");
        assert_eq!(world.rest("downloads"), Vec::<String>::new(), "{name}: it is of no use");
    }
}

/// The bytes that went over the wire are the blob's, each once, although the registry died three times.
#[test]
fn nothing_is_fetched_twice_when_a_registry_dies_and_comes_back() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &layers(), None);
    let proxy = Proxy::start(&registry.address, |count, request, answer| {
        if is_large(request, answer) && answer.body.len() > 100_000 {
            answer.end = End::Cut(90_000);
        } else if request.is_blob() && count % 2 == 1 && request.header("range").is_some() {
            answer.end = End::Dead;
        }
    });
    let waits = Mutex::new(Vec::new());
    let waiting = |wait: &Wait<'_>| waits.lock().unwrap().push(format!("{}: {}", wait.host, wait.reason));
    let access = Access { waiting: &waiting, ..Access::anonymous(&world.settings) };
    let image = world.pull_with(&format!("{}/app:1", proxy.address), &PullOptions::new(access)).unwrap();
    check_layers(&image);
    let size = gzip(&layers()[1]).len();
    let sent: usize =
        proxy.asked(|one| one.path.contains(Digest::of(&gzip(&layers()[1])).hex())).iter().map(|one| one.sent).sum();
    assert_eq!(sent, size, "each byte once");
    let waits = waits.into_inner().unwrap();
    assert!(waits.len() >= 3, "{waits:?}");
    assert!(waits.iter().all(|wait| wait.starts_with(&proxy.address)), "{waits:?}");
}

/// `Retry-After` is kept to, and said.
#[test]
fn the_pause_that_a_registry_asks_for_is_kept_and_told() {
    let world = World::new();
    let registry = Registry::start(&world.directory, None);
    registry.push("app", "1", &layers(), None);
    let proxy = Proxy::start(&registry.address, |count, _, answer| {
        if count == 1 {
            *answer = Answer::new(429, &[("retry-after", "2")], "");
        }
    });
    let waits = Mutex::new(Vec::new());
    let waiting = |wait: &Wait<'_>| waits.lock().unwrap().push((wait.reason.to_owned(), wait.seconds));
    let access = Access { waiting: &waiting, ..Access::anonymous(&world.settings) };
    let begun = Instant::now();
    world.pull_with(&format!("{}/app:1", proxy.address), &PullOptions::new(access)).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert_eq!(waits.into_inner().unwrap(), [("it answered HTTP 429".to_owned(), 2.0)]);
    let busy = proxy.asked(|one| one.is_manifest()).len();
    assert_eq!(busy, 2);
}

/// Four times, and no more; each later than the one before.
#[test]
fn a_registry_that_fails_is_asked_four_times() {
    let world = World::new();
    let proxy = Proxy::answering("127.0.0.1:0", |_, request| {
        Answer::new(if request.path == "/v2/" { 200 } else { 500 }, &[], "")
    });
    let pauses = Mutex::new(Vec::new());
    let waiting = |wait: &Wait<'_>| pauses.lock().unwrap().push(wait.seconds);
    let access = Access { waiting: &waiting, ..Access::anonymous(&world.settings) };
    world.pull_with(&format!("{}/app:1", proxy.address), &PullOptions::new(access)).unwrap_err();
    assert_eq!(proxy.asked(Request::is_manifest).len(), 4);
    let pauses = pauses.into_inner().unwrap();
    assert_eq!(pauses.len(), 3);
    assert!(pauses[2] > pauses[0], "{pauses:?}");
}

/// Neither a password nor a token goes to another port of the same host, nor comes back with a redirect back.
#[test]
fn who_we_are_is_not_told_behind_a_redirect() {
    let world = World::new();
    let directory = world.directory.clone();
    let account = ("ann", "s3cret");
    let registry = Registry::start(&directory, Some(account));
    registry.push("app", "1", &layers(), Some(account));
    let large = gzip(&layers()[1]);
    let elsewhere = Proxy::answering("127.0.0.1:0", move |_, _| Answer::new(200, &[], large.clone()));
    let away = elsewhere.address.clone();
    let proxy = Proxy::start(&registry.address, move |_, request, answer| {
        if is_large(request, answer) {
            *answer = Answer::new(307, &[("location", &format!("http://{away}/blob"))], "");
        }
    });
    let keyring = |_: &str| Some(Credentials::Password { user: "ann".into(), password: "s3cret".into() });
    let access = Access { keyring: &keyring, ..Access::anonymous(&world.settings) };
    let image = world.pull_with(&format!("{}/app:1", proxy.address), &PullOptions::new(access)).unwrap();
    check_layers(&image);
    assert!(proxy.was_told(), "the registry itself knows us");
    assert_eq!(elsewhere.seen().len(), 1);
    assert!(!elsewhere.was_told(), "{:?}", elsewhere.seen());
}
