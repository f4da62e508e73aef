//! Which files are found, and how several become one.

use super::{LoadOptions, load_files, options, stack_of};

#[test]
fn discovery_order() {
    let one = |image: &str, key: &str| format!("{key}: {{web: {{image: {image}}}}}");
    let table: [(&[&str], &str); 4] = [
        (&["stack.yaml", "compose.yaml"], "stack.yaml"),
        (&["docker-compose.yml", "compose.yaml"], "compose.yaml"),
        (&["../docker-compose.yml"], "docker-compose.yml"),
        (&["stack.yml"], "stack.yml"),
    ];
    for (names, expected) in table {
        let texts: Vec<(String, String)> = names
            .iter()
            .map(|name| {
                let key = if name.starts_with("stack") { "containers" } else { "services" };
                (name.to_string(), one("x", key))
            })
            .collect();
        let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let (stack, _) = load_files(&files, &options()).unwrap_or_else(|faults| panic!("{faults}"));
        assert!(stack.files[0].ends_with(expected), "{names:?}: {:?}", stack.files);
    }
}

#[test]
fn names_of_stacks() {
    let text = "services: {web: {image: x}}";
    assert_eq!(stack_of(&[("compose.yaml", text)]).name, "shop");
    let named = LoadOptions { project_name: Some("mine".into()), ..options() };
    let (stack, _) = load_files(&[("compose.yaml", text)], &named).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(stack.name, "mine");
    let elsewhere =
        LoadOptions { start: "/srv/_My App.2".into(), files: vec!["/srv/_My App.2/c.yaml".into()], ..options() };
    let (stack, _) =
        load_files(&[("/srv/_My App.2/c.yaml", text)], &elsewhere).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(stack.name, "myapp2");
}
