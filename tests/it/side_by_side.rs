//! The same command lines with docker and with this engine: what a script would see of them is the same.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;

use serde_json::json;

use crate::support::docker::Docker;
use crate::support::island::on_an_island;
use crate::support::{Output, World, finish};

const CASES: &str = include_str!("side_by_side/day_two.txt");
/// Cases at once. Docker takes most of their time.
const AT_ONCE: usize = 3;
const ENGINES: [&str; 2] = ["docker", "stack"];

struct Case {
    name: &'static str,
    script: &'static str,
}

fn cases() -> impl Iterator<Item = Case> {
    CASES.split("\n## ").skip(1).map(|text| {
        let (name, script) = text.split_once('\n').unwrap();
        Case { name, script }
    })
}

/// `DIRECTORY/ENGINE/e` is the engine.
fn engines(world: &World, docker: &Docker) {
    let docker = format!("DOCKER_CONFIG={0} exec docker -H unix://{0}/s \"$@\"", docker.directory.display());
    let (root, run, program) = (&world.roots.root, &world.roots.run, &world.roots.program);
    let own =
        format!("STACK_ROOT={} STACK_RUN_ROOT={} exec {} \"$@\"", root.display(), run.display(), program.display());
    for (engine, line) in ENGINES.iter().zip([docker, own]) {
        let file = world.file(&format!("{engine}/e"), &format!("#!/bin/sh\n{line}\n"));
        fs::set_permissions(file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

fn images(world: &World) {
    let root = world.busybox("root");
    for name in ["awk", "chmod", "env", "find", "head", "hostname", "pwd", "sort", "stat", "tail", "tr", "true", "wc"] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\nextra:x:2000:app\n").unwrap();
    fs::create_dir_all(root.join("d/inner")).unwrap();
    fs::create_dir_all(root.join("data")).unwrap();
    fs::write(root.join("d/inner/x"), "x\n").unwrap();
    fs::write(root.join("d/y"), "y\n").unwrap();
    world.archive("shell", "root", &json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]}));
    world.archive(
        "full",
        "root",
        &json!({"Entrypoint": ["echo", "entry"], "Cmd": ["cmd"], "Env": ["PATH=/bin"], "User": "app",
                "WorkingDir": "/tmp", "Labels": {"a": "image", "b": "image"}, "Volumes": {"/data": {}}}),
    );
}

/// Runs the script in a folder of its own. Nothing of its containers is left.
fn run(world: &World, engine: &str, number: usize, script: &str) -> Output {
    let folder = world.directory.join(format!("{engine}.{number}"));
    fs::create_dir_all(&folder).unwrap();
    let shell = |script: &str| {
        let path = format!("{}:{}", world.directory.join(engine).display(), std::env::var("PATH").unwrap());
        let names = [("a", format!("case{number}a")), ("b", format!("case{number}b"))];
        let mut command = Command::new("sh");
        command.args(["-c", script]).current_dir(&folder).env("PATH", path).envs(names).env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap(), &["sh", "-c", script])
    };
    let output = shell(script);
    let cleaned = shell("e rm -fv $a $b; e volume ls -q | grep \"^$a\\|^$b\\|^vol$\" | xargs -r e volume rm");
    Output { stderr: format!("{}{}", output.stderr, cleaned.stderr), ..output }
}

/// Lines that only one of them has.
fn difference(world: &World, number: usize, outputs: &[Output]) -> String {
    let files = ENGINES.iter().zip(outputs).map(|(engine, output)| {
        world.file(&format!("{engine}.{number}.out"), &format!("{}exit code {}\n", output.stdout, output.code))
    });
    let files: Vec<_> = files.collect();
    let told = Command::new("diff").arg("-U1").args(&files).output().expect("diff");
    String::from_utf8_lossy(&told.stdout).into_owned()
}

fn compare(world: &World, number: usize, case: &Case) -> Option<String> {
    let outputs = thread::scope(|scope| {
        let both = ENGINES.map(|engine| scope.spawn(move || run(world, engine, number, case.script)));
        both.map(|one| one.join().unwrap())
    });
    let difference = difference(world, number, &outputs);
    let said = || ENGINES.iter().zip(&outputs).map(|(engine, output)| format!("{engine}: {}\n", output.stderr));
    (!difference.is_empty()).then(|| format!("## {}\n{difference}{}", case.name, said().collect::<String>()))
}

#[test]
fn day_two_is_as_dockers() {
    on_an_island(|island| {
        let world = &island.world;
        let docker = Docker::start(world);
        images(world);
        engines(world, &docker);
        for (engine, image) in ENGINES.iter().flat_map(|engine| ["shell", "full"].map(|image| (engine, image))) {
            let program = world.directory.join(engine).join("e");
            let loaded = Command::new(program).arg("load").arg("-i").arg(world.directory.join(image)).output().unwrap();
            assert!(loaded.status.success(), "{engine} load: {loaded:?}");
        }
        let only = std::env::var("STACK_CASE").unwrap_or_default();
        let waiting = Mutex::new(cases().enumerate().filter(|(_, case)| case.name.contains(&only)));
        let different = Mutex::new(Vec::new());
        thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    loop {
                        let Some((number, case)) = waiting.lock().unwrap().next() else { return };
                        let found = compare(world, number, &case);
                        different.lock().unwrap().extend(found);
                    }
                });
            }
        });
        let different = different.into_inner().unwrap();
        assert!(different.is_empty(), "{} differ:\n{}", different.len(), different.join("\n"));
        world.run(&["network", "rm", "default"]);
    });
}
