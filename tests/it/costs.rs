//! docs/changes.md says of every field what changing it costs; made from the code that plans by it. `UPDATE_EXPECT=1`
//! writes it anew.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::value::Error;
use serde::de::{Deserializer, Error as _, Visitor};
use stack::reconcile::engine::{Change, linux_change};
use stack::reconcile::resource::{ContainerConfig, Endpoint, FileMount, Kind, NetworkConfig, Resources, VolumeConfig};

const DOCUMENT: &str = "docs/changes.md";
const BEGIN: &str = "<!-- made by tests/it/costs.rs, from here -->\n";
const END: &str = "<!-- to here -->\n";

/// Hears which fields a structure has, and gives it none.
struct Fields<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("only the fields of structures are asked for"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.0.extend_from_slice(fields);
        Err(Error::custom("that is all"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut found = Vec::new();
    assert!(T::deserialize(Fields(&mut found)).is_err() && !found.is_empty());
    found
}

/// Kind, and each field as a plan names it.
fn all() -> Vec<(Kind, String)> {
    // Who it is: another one is another thing. What the engine counts by itself nobody changes.
    let is_identity = |kind: Kind, field: &str| match kind {
        Kind::Container => ["name", "service", "number", "recreated_ms"].contains(&field),
        _ => ["name", "external"].contains(&field),
    };
    let mut found = Vec::new();
    let mut add = |kind: Kind, above: &str, names: Vec<&str>| {
        let names = names.into_iter().filter(|name| !above.is_empty() || !is_identity(kind, name));
        found.extend(names.map(|name| (kind, format!("{above}{name}"))));
    };
    let parts = ["resources", "network", "files"];
    add(Kind::Container, "", fields::<ContainerConfig>().into_iter().filter(|name| !parts.contains(name)).collect());
    add(Kind::Container, "resources.", fields::<Resources>());
    add(Kind::Container, "network.networks.NAME.", fields::<Endpoint>());
    add(Kind::Container, "network.", vec!["host", "none", "container"]);
    add(Kind::Container, "files./TARGET.", fields::<FileMount>());
    add(Kind::Network, "", fields::<NetworkConfig>());
    add(Kind::Volume, "", fields::<VolumeConfig>());
    // A mount has no parts that are changed by themselves.
    assert_eq!(linux_change(Kind::Container, "mounts./x.read_only"), linux_change(Kind::Container, "mounts"));
    found
}

fn tables() -> String {
    let costs = [
        (Change::InPlace, "in place: nothing stops"),
        (Change::Restart, "restart: the same container is stopped and started"),
        (Change::Replace, "replace: a new one is made in its place"),
        (Change::LosesData, "loses data: refused without consent"),
    ];
    let mut text = String::new();
    for kind in [Kind::Container, Kind::Network, Kind::Volume] {
        writeln!(text, "\n### {kind}\n\n| what a change costs | fields |\n|---|---|").unwrap();
        for (cost, words) in costs {
            let own = all().into_iter().filter(|(of, field)| *of == kind && linux_change(kind, field) == cost);
            let names: Vec<String> = own.map(|(_, field)| format!("`{field}`")).collect();
            if !names.is_empty() {
                writeln!(text, "| {words} | {} |", names.join(", ")).unwrap();
            }
        }
    }
    text.push('\n');
    text
}

#[test]
fn what_a_change_costs_is_described_as_it_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap_or_else(|| panic!("{DOCUMENT} lacks {BEGIN}"));
    let (found, after) = rest.split_once(END).unwrap_or_else(|| panic!("{DOCUMENT} lacks {END}"));
    let wanted = tables();
    if found == wanted {
        return;
    }
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).unwrap();
        return;
    }
    panic!("{DOCUMENT} is not true any more (UPDATE_EXPECT=1 writes it anew):\n{wanted}");
}
