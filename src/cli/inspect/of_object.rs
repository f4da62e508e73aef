//! Images, networks and volumes as docker describes them.

use serde_json::{Map, Value, json};

use crate::cli::failure::Failure;
use crate::cli::{images, view, volumes};
use crate::engine::native::volume_users;
use crate::reconcile::resource::label;
use crate::runtime::image::Image;
use crate::runtime::network::Family;
use crate::runtime::roots::Roots;
use crate::runtime::volume::{self, Volume};
use crate::runtime::{container, network};

pub fn image(image: &Image) -> Value {
    let configuration = serde_json::to_value(&image.config).unwrap_or_default();
    let layers: Vec<String> = image.layers.iter().rev().map(|layer| layer.display().to_string()).collect();
    let nameless = image.reference == images::NAMELESS || image.reference.contains('@');
    let tags: Vec<&str> = if nameless { vec![] } else { vec![&image.reference] };
    let name = image.reference.split('@').next().unwrap_or_default();
    let repository = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name, |(name, _)| name);
    json!({
        "Id": image.id,
        "RepoTags": tags,
        "RepoDigests": [format!("{repository}@{}", image.digest)],
        "Created": view::time(images::created_ms(image)),
        "Author": configuration.get("author").cloned().unwrap_or_else(|| json!("")),
        "Architecture": image.config.architecture(),
        "Os": image.config.os(),
        "Size": image.size,
        "Config": configuration.get("config").cloned().unwrap_or_else(|| json!({})),
        "RootFS": {"Type": "layers", "Layers": image.config.rootfs().diff_ids()},
        "GraphDriver": {"Name": "overlayfs", "Data": {"LowerDir": layers.join(":")}},
        "Stack": {"Name": image.reference, "StoredAt": view::time(image.created_ms), "Place": image.place,
                  "Manifest": image.manifest, "Layers": image.layers, "Configuration": configuration},
    })
}

pub fn network(roots: &Roots, one: &network::Network) -> Result<Value, Failure> {
    let mut containers: Map<String, Value> = Map::new();
    for attachment in network::attachments(roots)? {
        let Some(endpoint) = attachment.endpoints.get(&one.config.name) else { continue };
        // One that goes meanwhile is simply not listed.
        let Ok(found) = container::get(roots, &attachment.container) else { continue };
        let mac: Vec<String> = endpoint.hardware_address.iter().map(|byte| format!("{byte:02x}")).collect();
        let address = |family| {
            let prefix = one.range(family).map(|range| format!("/{}", range.subnet.prefix())).unwrap_or_default();
            endpoint.address(family).map(|address| format!("{address}{prefix}")).unwrap_or_default()
        };
        let value = json!({"Name": attachment.container, "MacAddress": mac.join(":"),
                           "IPv4Address": address(Family::V4), "IPv6Address": address(Family::V6)});
        containers.insert(found.config.id, value);
    }
    Ok(json!({
        "Name": one.config.name,
        "Id": one.config.name,
        "Driver": one.config.driver.name(),
        "Scope": "local",
        "Internal": one.config.internal,
        "EnableIPv4": one.range(Family::V4).is_some(),
        "EnableIPv6": one.range(Family::V6).is_some(),
        "IPAM": {"Driver": "default", "Config": one.ranges.iter().map(pool).collect::<Vec<_>>()},
        "Containers": containers,
        "Attachable": one.config.declared["attachable"] == true,
        "Ingress": false,
        "Options": options_of(one),
        "Labels": one.config.labels,
        "Stack": {"Stack": one.config.labels.get(label::STACK), "Declared": one.config.declared},
    }))
}

/// Those that were asked for, and the name of its bridge, as docker has it.
fn options_of(one: &network::Network) -> Value {
    let mut options = one.config.declared["options"].as_object().cloned().unwrap_or_default();
    if one.is_bridge() {
        options.insert("com.docker.network.bridge.name".to_owned(), json!(one.bridge));
    }
    Value::Object(options)
}

/// What was asked for and is not the whole subnet is only there where it was.
fn pool(range: &network::Range) -> Value {
    let mut value = json!({"Subnet": range.subnet, "Gateway": range.gateway});
    if let Some(part) = range.ip_range {
        value["IPRange"] = json!(part);
    }
    if !range.reserved.is_empty() {
        value["AuxiliaryAddresses"] = json!(range.reserved);
    }
    value
}

pub fn volume(roots: &Roots, one: &Volume) -> Result<Value, Failure> {
    // A plugin that can't be asked is no reason to show nothing.
    let (status, scope) = match one.config.plugin().map(|_| volume::driver::status(roots, one)) {
        Some(Ok((status, scope))) => (status.unwrap_or_default(), scope),
        Some(Err(error)) => (json!({"error": error.to_string()}), "local".to_owned()),
        None => (Value::Null, "local".to_owned()),
    };
    Ok(json!({
        "Name": one.config.name,
        "Driver": volumes::driver_of(one),
        "Mountpoint": one.data,
        "CreatedAt": view::time(one.created * 1000),
        "Scope": scope,
        "Status": status,
        "Options": one.config.driver_opts,
        "Labels": one.config.labels,
        "Stack": {
            "Stack": one.config.labels.get(label::STACK),
            "Protected": one.config.protect,
            "UsedBy": volume_users(roots, &one.config.name)?,
            "Declared": one.config.declared,
        },
    }))
}
