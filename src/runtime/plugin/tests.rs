//! Against listeners that answer as they are told to, over real sockets.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::volume::VolumeDriver;
use super::*;

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A host with one plugin, `p`, that gives these answers one after the other and then is gone.
fn host(answers: Vec<String>) -> (Roots, PathBuf) {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let place = std::env::temp_dir().join(format!("stack-plugin-{}-{number}", std::process::id()));
    std::fs::create_dir_all(place.join("etc/stack")).unwrap();
    let settings = format!("folders = [{:?}]\ntimeout_seconds = 1\n", place.display().to_string());
    std::fs::write(place.join("etc/stack/plugins.toml"), settings).unwrap();
    let listener = UnixListener::bind(place.join("p.sock")).unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            hear(&mut stream);
            if answer == "hang" {
                drop(stream.read(&mut [0]));
                continue;
            }
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    let mut roots = Roots::new(place.join("root"), place.join("run"));
    roots.etc = place.join("etc");
    (roots, place)
}

/// Reads one request to its end.
fn hear(stream: &mut UnixStream) {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    let head = String::from_utf8(text).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1).map_or("0", |rest| rest.lines().next().unwrap());
    stream.read_exact(&mut vec![0; length.parse().unwrap()]).unwrap();
    assert!(head.contains("content-type: application/vnd.docker.plugins.v1.2+json"), "{head}");
}

fn http(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn volumes() -> String {
    http(r#"{"Implements": ["VolumeDriver"]}"#)
}

/// What mounting says when the plugin answers so after a proper handshake.
fn mounting(answer: &str) -> String {
    let (roots, place) = host(vec![volumes(), answer.to_owned()]);
    let said = VolumeDriver::open(&roots, "p").unwrap().mount("data", "1").unwrap_err().to_string();
    std::fs::remove_dir_all(place).unwrap();
    said
}

#[test]
fn what_is_no_answer_is_named_with_plugin_and_call() {
    let broken = "plugin p has answered VolumeDriver.Mount with what is no answer: ";
    let (giant, endless) = ("x".repeat(5 << 20), "x".repeat(1 << 20));
    let cases = [
        (http("{"), format!("{broken}EOF")),
        (http(r#"{"Mountpoint": 7}"#), format!("{broken}invalid type")),
        (http("{}"), format!("{broken}missing field `Mountpoint`")),
        (http(r#"{"Mountpoint": "data"}"#), format!("{broken}\"data\" is no directory")),
        (http(r#"{"Mountpoint": "/tmp/../etc"}"#), format!("{broken}\"/tmp/../etc\" is no directory")),
        (http(r#"{"Mountpoint": "/nowhere/at/all"}"#), format!("{broken}\"/nowhere/at/all\" is no directory")),
        (http(&giant), format!("{broken}more than 4194304 bytes")),
        ("no HTTP at all\r\n\r\n".to_owned(), broken.to_owned()),
        (format!("HTTP/1.1 200 OK\r\nX: {endless}\r\n\r\n"), "plugin p ".to_owned()),
        (String::new(), "plugin p is not to be reached at ".to_owned()),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_owned(), "plugin p ".to_owned()),
        ("hang".to_owned(), "plugin p has not answered VolumeDriver.Mount within 1 s".to_owned()),
        (
            http("{\"Err\": \"no\\u001b[31m such disk\"}"),
            "plugin p refuses VolumeDriver.Mount: no [31m such disk".to_owned(),
        ),
        (
            "HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops".to_owned(),
            "plugin p refuses VolumeDriver.Mount: status 500: oops".to_owned(),
        ),
    ];
    for (answer, expected) in cases {
        let said = mounting(&answer);
        let begin: String = answer.chars().take(60).collect();
        assert!(said.starts_with(&expected), "{begin}: {said}");
    }
}

#[test]
fn a_plugin_is_found_by_its_files_and_only_used_as_what_it_is() {
    let (roots, place) = host(vec![http(r#"{"Implements": ["authz"]}"#), volumes()]);
    let said = activate(&roots, "p", VOLUME_DRIVER).unwrap_err().to_string();
    assert!(said.starts_with("plugin p is no VolumeDriver: it implements authz"), "{said}");
    std::fs::write(place.join("q.spec"), format!("unix://{}/p.sock\n", place.display())).unwrap();
    assert_eq!(activate(&roots, "q", VOLUME_DRIVER).unwrap().name, "q");
    let said = activate(&roots, "q", VOLUME_DRIVER).unwrap_err().to_string();
    assert!(said.starts_with("plugin q is not to be reached at "), "{said}");
    std::fs::write(place.join("r.json"), "{").unwrap();
    assert!(matches!(find(&roots, "r"), Err(Error::Description { .. })));
    assert!(matches!(find(&roots, "s"), Err(Error::Absent { .. })));
    assert!(matches!(find(&roots, "../p"), Err(Error::Name { .. })));
    assert_eq!(list(&roots).unwrap().into_iter().collect::<Vec<_>>(), ["p", "q"]);
    std::fs::remove_dir_all(place).unwrap();
}
