//! `network connect` and `network disconnect`.

use std::process::ExitCode;

use super::args::{NetworkConnect, NetworkDisconnect};
use super::failure::Failure;
use super::{options, view};
use crate::engine::native::places;
use crate::reconcile::resource::Endpoint;
use crate::runtime::container::{self, Container};
use crate::runtime::network;
use crate::runtime::roots::Roots;

/// The one option of a place in a network that has an effect.
const INTERFACE: &str = "com.docker.network.endpoint.ifname";

pub fn connect(roots: &Roots, arguments: &NetworkConnect) -> Result<ExitCode, Failure> {
    let name = options::own_name(&arguments.network);
    network::get(roots, name)?;
    let found = supervised(roots, &arguments.container)?;
    places::connect(roots, &found, name, endpoint(arguments)?)?;
    Ok(ExitCode::SUCCESS)
}

pub fn disconnect(roots: &Roots, arguments: &NetworkDisconnect) -> Result<ExitCode, Failure> {
    let name = options::own_name(&arguments.network);
    network::get(roots, name)?;
    match supervised(roots, &arguments.container) {
        Err(container::Error::NotFound(_))
            if arguments.force && places::disconnect_rest(roots, &arguments.container, name)? => {}
        found => places::disconnect(roots, &found?, name)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn supervised(roots: &Roots, name: &str) -> Result<Container, container::Error> {
    let found = container::get(roots, name)?;
    if container::adopt(roots, &found)? { container::get(roots, name) } else { Ok(found) }
}

fn endpoint(arguments: &NetworkConnect) -> Result<Endpoint, Failure> {
    let mut interface_name = None;
    for text in &arguments.driver_opt {
        match options::setting("--driver-opt", text)? {
            (key, value) if key == INTERFACE => interface_name = Some(value),
            (key, _) => view::note(&format!("--driver-opt {key}: it has no effect")),
        }
    }
    Ok(Endpoint {
        aliases: arguments.alias.clone(),
        ipv4_address: arguments.ip.as_deref().map(|text| options::ipv4("--ip", text)).transpose()?,
        gw_priority: arguments.gw_priority,
        interface_name,
        ..Endpoint::default()
    })
}
