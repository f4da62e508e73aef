//! The JSON Schema of `stack.yaml`, for editors. It is not written by hand: a file in which every mapping occurs is read,
//! and whatever key is asked for is a key that there is, of the kind that it is asked as ([`super::fields`]).

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};

use super::load::{Files, LoadOptions, load_with_keys};

/// Stands for a name that the user gives, in `everything.yaml`.
const ANY_NAME: &str = "NAME";
/// Where in `docs/file-format.md` the keys are described.
const DESCRIPTIONS: &str = include_str!("../../docs/file-format.md");

/// What stands behind a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// It is looked at in several ways, or is a mapping of its own.
    Anything,
    Text,
    Flag,
    Number,
    /// A number with a unit: bytes, a duration.
    Amount,
    /// Strings, or one.
    List,
    Items,
    /// `key: value`, or a list of `key=value`.
    Pairs,
    Words(Vec<String>),
}

/// Every key that was asked for, by the mapping's path.
#[derive(Clone, Debug, Default)]
pub struct Keys(BTreeMap<String, BTreeMap<String, Shape>>);

impl Keys {
    /// What is known of a key's shape already stays.
    pub fn note(&mut self, path: &str, key: &str, shape: Shape) {
        let known = self.0.entry(path.to_owned()).or_default().entry(key.to_owned()).or_insert(Shape::Anything);
        if *known == Shape::Anything {
            *known = shape;
        }
    }
}

/// One file in memory, and nothing else.
struct Everything;

impl Files for Everything {
    fn read(&mut self, path: &std::path::Path) -> std::io::Result<Vec<u8>> {
        match path.ends_with("stack.yaml") {
            true => Ok(include_bytes!("everything.yaml").to_vec()),
            false => Err(std::io::ErrorKind::NotFound.into()),
        }
    }

    fn exists(&mut self, path: &std::path::Path) -> bool {
        path.ends_with("stack.yaml")
    }

    fn is_directory(&mut self, _: &std::path::Path) -> bool {
        false
    }

    fn watch(&mut self, _: &std::path::Path) {}

    fn display(&self, path: &std::path::Path) -> String {
        path.display().to_string()
    }
}

/// The schema (draft 2020-12).
pub fn schema() -> Json {
    let options = LoadOptions { start: "/everything".into(), ..LoadOptions::default() };
    let mut tree = Tree::default();
    for (path, keys) in load_with_keys(&options, &mut Everything).0.clone() {
        let node = path.split('.').filter(|word| !word.is_empty()).fold(&mut tree, |node, word| node.below(word));
        for (key, shape) in keys {
            node.keys.insert(key, shape);
        }
    }
    let mut schema = tree.schema("");
    if let Json::Object(map) = &mut schema {
        map.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        map.insert("title".into(), json!("stack.yaml"));
        map.insert("type".into(), json!("object"));
        map.insert("required".into(), json!(["containers"]));
    }
    schema
}

/// A place in the file: the keys of its mapping, and what stands below.
#[derive(Default)]
struct Tree {
    keys: BTreeMap<String, Shape>,
    named: BTreeMap<String, Tree>,
    any_name: Option<Box<Tree>>,
    item: Option<Box<Tree>>,
}

impl Tree {
    fn below(&mut self, word: &str) -> &mut Self {
        match word {
            ANY_NAME => self.any_name.get_or_insert_default(),
            word if word.parse::<usize>().is_ok() => self.item.get_or_insert_default(),
            word => self.named.entry(word.to_owned()).or_default(),
        }
    }

    /// JSON Schema's words about a mapping say nothing of other values, so that short forms stay allowed.
    fn schema(&self, section: &str) -> Json {
        let mut schema = Map::new();
        let mut properties = Map::new();
        for (key, shape) in &self.keys {
            let below = self.named.get(key).map(|tree| tree.schema(key));
            let mut value = below.unwrap_or_else(|| shape.schema());
            if let (Json::Object(map), Some(text)) = (&mut value, description(section, key)) {
                map.insert("description".into(), json!(text));
            }
            properties.insert(key.clone(), value);
        }
        if !self.keys.is_empty() {
            schema.insert("properties".into(), Json::Object(properties));
            schema.insert("patternProperties".into(), json!({"^x-": true}));
            schema.insert("additionalProperties".into(), json!(false));
        }
        if let Some(tree) = &self.any_name {
            let section = if section == "containers" { "a container" } else { "" };
            schema.insert("additionalProperties".into(), tree.schema(section));
            schema.insert("patternProperties".into(), json!({"^x-": true}));
        }
        if let Some(tree) = &self.item {
            schema.insert("items".into(), tree.schema(""));
        }
        Json::Object(schema)
    }
}

impl Shape {
    /// Nothing written is nothing said, and a variable may stand for everything but a list or a mapping.
    fn schema(&self) -> Json {
        let variable = json!({"type": "string", "pattern": "\\$"});
        match self {
            Self::Anything => json!({}),
            Self::Text => json!({"type": ["string", "number", "boolean", "null"]}),
            Self::Flag => {
                json!({"anyOf": [{"type": ["boolean", "null"]}, {"enum": ["true", "false", "yes", "no"]}, variable]})
            }
            Self::Number => {
                json!({"anyOf": [{"type": ["integer", "null"]}, {"type": "string", "pattern": "^-?[0-9_]+$"}, variable]})
            }
            Self::Amount => {
                json!({"anyOf": [{"type": ["number", "null"]}, {"type": "string", "pattern": "^-?[0-9.]+ *[a-zA-Zµ0-9.]*$"}, variable]})
            }
            Self::List => {
                json!({"type": ["array", "string", "null"], "items": {"type": ["string", "number", "boolean"]}})
            }
            Self::Items => json!({"type": ["array", "null"]}),
            Self::Pairs => json!({
                "type": ["object", "array", "null"],
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
                "items": {"type": "string"},
            }),
            Self::Words(words) => json!({"anyOf": [{"enum": words}, {"type": "null"}, variable]}),
        }
    }
}

/// What the manual says of a key: of a container's in its first table, of the others in the second.
fn description(section: &str, key: &str) -> Option<String> {
    let heading = if section == "a container" { "| key of a container |" } else { "| key |" };
    if !section.is_empty() && section != "a container" {
        return None;
    }
    let table =
        DESCRIPTIONS.lines().skip_while(|line| !line.starts_with(heading)).take_while(|line| line.starts_with('|'));
    let prefix = format!("| `{key}` | ");
    let line = table.into_iter().find_map(|line| line.strip_prefix(prefix.as_str()))?;
    Some(line.trim_end_matches(" |").replace("\\|", "|").replace('`', ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(schema: &'a Json, path: &str) -> &'a Json {
        schema.pointer(path).unwrap_or_else(|| panic!("{path}"))
    }

    #[test]
    fn keys_have_the_kinds_that_they_are_read_as() {
        let schema = schema();
        let container = at(&schema, "/properties/containers/additionalProperties");
        assert_eq!(at(container, "/additionalProperties"), false);
        let property = |key: &str| at(container, &format!("/properties/{key}"));
        assert!(property("image")["description"].as_str().unwrap().contains("builtin:NAME"));
        assert_eq!(property("tty")["anyOf"][0]["type"][0], "boolean");
        assert!(
            at(property("depends_on"), "/additionalProperties/properties/condition")
                .to_string()
                .contains("service_healthy")
        );
        assert!(at(property("ports"), "/items/properties").as_object().unwrap().contains_key("host_ip"));
        assert!(at(property("healthcheck"), "/properties").as_object().unwrap().contains_key("on_failure"));
        for path in [
            "/properties/volumes/additionalProperties/properties/protect",
            "/properties/networks/additionalProperties/properties/ipam/properties/config/items/properties/subnet",
        ] {
            at(&schema, path);
        }
    }
}
