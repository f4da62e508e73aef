//! `stack schema`: what it allows and forbids is what `validate` does, as Debian's jsonschema understands it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::World;

const CHECK: &str = "import json, sys, tomllib, yaml, jsonschema
class Loader(yaml.SafeLoader): pass
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
for path in sys.argv[2:]:
    file = tomllib.load(open(path, 'rb')) if path.endswith('.toml') else yaml.load(open(path), Loader)
    errors = [f'{list(error.absolute_path)}: {error.message}' for error in validator.iter_errors(file)]
    print(path, '; '.join(errors) or 'ok', sep='\\t')
";

/// What is said about each file.
fn check(world: &World, files: &[String]) -> Vec<String> {
    let schema = world.file("schema.json", &world.ok(&["schema"]));
    let output = Command::new("python3").args(["-c", CHECK]).arg(&schema).args(files).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Debian's python3-jsonschema and python3-yaml: {error}");
    text.lines().map(|line| line.split_once('\t').unwrap().1.to_owned()).collect()
}

#[test]
fn right_files_are_right() {
    let world = World::new();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = home.join("examples/stacks");
    let mut files: Vec<String> = Vec::new();
    for folder in fs::read_dir(examples).unwrap() {
        for file in fs::read_dir(folder.unwrap().path()).unwrap().map(|file| file.unwrap().path()) {
            let name = file.file_name().unwrap().to_str().unwrap();
            if name.starts_with("stack.") {
                files.push(file.display().to_string());
            }
        }
    }
    assert!(files.len() >= 3, "{files:?}");
    let documented = fs::read_to_string(home.join("docs/file-format.md")).unwrap();
    let block = documented.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    files.push(world.file("documented.yaml", block).display().to_string());
    files.push(home.join("src/spec/everything.yaml").display().to_string());
    let short = "containers:\n  a:\n    image: x\n    tty: \"${T}\"\n    ports: [80, \"1:2\"]\n    networks: [n]\n    \
                 depends_on: [b]\n    ulimits: {nofile: 10}\n    environment: [A=b]\n    command: echo hi\n    \
                 mem_limit: 512m\n    x-own: {any: thing}\n  b: {image: x, build: ., env_file: a.env, gpus: all}\n\
                 x-top: 1\nnetworks: {n: }\nvolumes: {v: {external: true}}\n";
    files.push(world.file("short.yaml", short).display().to_string());
    for (file, said) in files.iter().zip(check(&world, &files)) {
        assert_eq!(said, "ok", "{file}");
    }
}

#[test]
fn wrong_files_are_wrong_there() {
    let world = World::new();
    let cases = [
        ("containers: {a: {imge: x}}", "'imge'"),
        ("contaners: {a: {image: x}}", "'contaners'"),
        ("containers: {a: {image: x, tty: maybe}}", "maybe"),
        ("containers: {a: {image: x, depends_on: {b: {condition: healthy}}}}", "healthy"),
        ("containers: {a: {image: x, healthcheck: {tst: x}}}", "'tst'"),
        ("containers: {a: {image: x, volumes: [{type: bind, sorce: ., target: /x}]}}", "'sorce'"),
        ("containers: {a: {image: x, cpu_shares: lots}}", "lots"),
        ("containers: {a: {image: x}}\nvolumes: {v: {protekt: true}}", "'protekt'"),
        ("containers: {a: {image: x, hostname: [x]}}", "['x']"),
        ("networks: {}", "'containers'"),
    ];
    let files: Vec<String> = (0..cases.len())
        .map(|number| world.file(&format!("wrong{number}.yaml"), &format!("name: s\n{}\n", cases[number].0)))
        .map(|path| path.display().to_string())
        .collect();
    for (((text, part), said), file) in cases.iter().zip(check(&world, &files)).zip(&files) {
        assert!(said.contains(part), "{text}: {said}");
        // The program itself agrees.
        world.fails(1, &["validate", file]);
    }
}

/// Every attribute that is known has its place in the schema.
#[test]
fn every_key_is_in_the_schema() {
    let world = World::new();
    let schema: serde_json::Value = serde_json::from_str(&world.ok(&["schema"])).unwrap();
    let mut absent = Vec::new();
    for line in include_str!("attributes/table.txt").lines() {
        let Some((path, _)) = line.split_once("  ").filter(|(path, _)| !path.starts_with('#')) else { continue };
        // What docker's files have below other files, or AI models, is not read as a tree of keys.
        if [
            "include.",
            "models.",
            "services.extends.",
            "services.models.",
            "services.provider.",
            "services.develop.",
            "services.blkio_config.",
            "services.credential_spec.",
            "services.ulimits.",
        ]
        .iter()
        .any(|prefix| path.starts_with(prefix))
        {
            continue;
        }
        let words: Vec<&str> = path.split('.').filter(|word| *word != "x-stack").collect();
        let words = [if words[0] == "services" { "containers" } else { words[0] }]
            .into_iter()
            .chain(words[1..].iter().copied());
        let mut node = &schema;
        for word in words {
            // Through names that the user gives, and items of a list.
            for _ in 0..2 {
                if node["properties"].get(word).is_none() {
                    let (named, items) = (&node["additionalProperties"], &node["items"]);
                    node = if named["properties"].is_object() {
                        named
                    } else if items["properties"].is_object() {
                        items
                    } else {
                        node
                    };
                }
            }
            match node["properties"].get(word) {
                Some(below) => node = below,
                None => {
                    absent.push(path);
                    break;
                }
            }
        }
    }
    assert!(absent.is_empty(), "{absent:?}");
}
