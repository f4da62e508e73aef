//! Registries: images fetched and sent, logins, and what a registry has.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use serde_json::json;

use super::args::{Login, Pull, Push, RegistryCommand};
use super::bars::{Bars, Show};
use super::failure::Failure;
use super::format::{Column, Format, Listing, Row};
use super::{lock, view};
use crate::engine::native::{Watcher, ensure_image};
use crate::reconcile::resource::{ImageConfig, ImageSource, PullPolicy};
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{
    Access, Client, Credentials, Digest, ImageReference, Progress, PullOptions, Settings, Store, Wait,
};
use crate::runtime::roots::Roots;

/// How progress is shown: as asked for by `--quiet` and `--format`.
pub fn shown(quiet: bool, format: &Format) -> Show {
    match (quiet, format) {
        (true, _) => Show::Nothing,
        (_, Format::Json) => Show::Programs,
        _ => Show::People,
    }
}

/// Who is told of a registry that makes us wait, where no bars are shown.
fn said(wait: &Wait<'_>) {
    view::note(&format!("waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason));
}

/// All are tried; those that failed are told at the end.
pub fn pull(roots: &Roots, arguments: &Pull) -> Result<ExitCode, Failure> {
    if arguments.update {
        return lock::update(roots, arguments);
    }
    let shown = shown(arguments.quiet, &arguments.format.format);
    let bars = Bars::new(shown);
    let mut failures = Vec::new();
    for reference in &arguments.references {
        let names = match arguments.all_tags {
            true => all_tags(roots, reference, &bars),
            false => Ok(vec![reference.clone()]),
        };
        let pulled = names.and_then(|names| {
            names.into_iter().try_for_each(|name| pull_one(roots, name, arguments.platform.clone(), shown, &bars))
        });
        failures.extend(pulled.err());
    }
    Failure::of_all(failures)
}

fn pull_one(roots: &Roots, name: String, platform: Option<String>, shown: Show, bars: &Bars) -> Result<(), Failure> {
    let source = ImageSource::Pull { reference: name.clone(), digest: None };
    let wanted = ImageConfig { reference: name, source, pull_policy: PullPolicy::Always, platform };
    let image = ensure_image(roots, &wanted, bars)?;
    match shown {
        Show::Programs => {
            let value = json!({"image": image.reference, "state": "pulled", "digest": image.digest});
            return Ok(view::out(&format!("{value}\n"))?);
        }
        Show::People => bars.line(&format!("{}: {}", image.reference, image.digest)),
        Show::Nothing => {}
    }
    Ok(view::out(&format!("{}\n", image.reference))?)
}

fn all_tags(roots: &Roots, reference: &str, bars: &Bars) -> Result<Vec<String>, Failure> {
    let settings = Settings::of_host(roots)?;
    let place = ImageReference::parse(reference)?;
    let waiting = |wait: &Wait<'_>| bars.waiting(reference, wait);
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    let tags = Client::new(&place, access).tags()?;
    let named = tags.into_iter().map(|tag| ImageReference { tag: Some(tag), digest: None, ..place.clone() }.familiar());
    Ok(named.collect())
}

pub fn push(roots: &Roots, arguments: &Push) -> Result<ExitCode, Failure> {
    let settings = Settings::of_host(roots)?;
    let store = Store::open(roots).with_limits(&settings.limits);
    let shown = shown(arguments.quiet, &arguments.format.format);
    let bars = Bars::new(shown);
    let name = arguments.name.as_str();
    let place = ImageReference::parse(arguments.to.as_deref().unwrap_or(name))?;
    let waiting = |wait: &Wait<'_>| bars.waiting(name, wait);
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    let progress = |progress: Progress<'_>| bars.progress(name, progress);
    let digest = store.push(name, &place, &PullOptions { platform: None, access, progress: &progress })?;
    match shown {
        Show::Programs => view::out(&format!("{}\n", json!({"image": name, "state": "pushed", "digest": digest})))?,
        _ => view::out(&format!("{}@{digest}\n", ImageReference { digest: None, tag: None, ..place }.familiar()))?,
    }
    Ok(ExitCode::SUCCESS)
}

pub fn login(roots: &Roots, arguments: &Login) -> Result<ExitCode, Failure> {
    let registry = registry_name(arguments.server.as_deref());
    let user = match &arguments.username {
        Some(user) => user.clone(),
        None => prompt("user", true)?,
    };
    let password = match (&arguments.password, arguments.password_stdin) {
        (Some(password), false) => password.clone(),
        (None, true) => {
            let mut text = String::new();
            std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => prompt("password", false)?,
        (Some(_), true) => return Err(Failure::new("--password and --password-stdin exclude each other")),
    };
    let known = Credentials::Password { user, password };
    let settings = Settings::of_host(roots)?;
    let keyring = |_: &str| Some(known.clone());
    let access = Access { settings: &settings, keyring: &keyring, waiting: &said };
    Client::of_registry(&registry, access).check_login()?;
    let place = credentials::store(&registry, &known)?;
    view::note(&format!("logged in to {registry}; kept in {place}"));
    Ok(ExitCode::SUCCESS)
}

pub fn logout(server: Option<&str>) -> Result<ExitCode, Failure> {
    let registry = registry_name(server);
    let known = credentials::erase(&registry)?;
    view::note(&if known { format!("logged out of {registry}") } else { format!("there was no login to {registry}") });
    Ok(ExitCode::SUCCESS)
}

fn registry_name(server: Option<&str>) -> String {
    let name = server.unwrap_or("docker.io");
    let name = name.strip_prefix("https://").or(name.strip_prefix("http://")).unwrap_or(name);
    let name = name.split('/').next().unwrap_or(name);
    if matches!(name, "index.docker.io" | "registry-1.docker.io") { "docker.io".into() } else { name.to_owned() }
}

fn prompt(what: &str, shown: bool) -> Result<String, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(format!("no {what} is given\n  help: `--username` and `--password-stdin` give them")));
    }
    write!(std::io::stderr(), "{what}: ")?;
    std::io::stderr().flush()?;
    let hidden = if shown { None } else { Some(super::terminal::Hidden::begin()?) };
    let mut text = String::new();
    std::io::stdin().read_line(&mut text)?;
    if hidden.is_some() {
        view::note("");
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

const REFERRERS: &[Column] = &[("Digest", "DIGEST"), ("Type", "TYPE"), ("Size", "SIZE")];

pub fn command(roots: &Roots, command: &RegistryCommand) -> Result<ExitCode, Failure> {
    let settings = Settings::of_host(roots)?;
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &said };
    match command {
        RegistryCommand::Tags { repository, format } => {
            let place = ImageReference::parse(repository)?;
            let tags = Client::new(&place, access).tags()?;
            match &format.format {
                Format::Table => view::out(&tags.iter().map(|tag| view::printable(tag) + "\n").collect::<String>())?,
                Format::Json => view::json(&tags)?,
                other => super::format::print_value(other, &json!(tags), String::new)?,
            }
        }
        RegistryCommand::Referrers { reference, format } => {
            let place = ImageReference::parse(reference)?;
            let client = Client::new(&place, access);
            let digest = digest(&client, &place)?;
            let found = client.referrers(&digest)?;
            let mut listing = Listing::new(REFERRERS, &["Digest", "Type", "Size"]);
            for one in &found {
                let kind = one.artifact_type.as_ref().unwrap_or(&one.media_type).clone();
                let cells = [("Digest", one.digest.to_string()), ("Type", kind), ("Size", view::size(one.size))];
                listing.push(Row::new(cells, json!(one)));
            }
            listing.print(&format.format)?;
        }
        RegistryCommand::Delete { reference } => {
            let place = ImageReference::parse(reference)?;
            let client = Client::new(&place, access);
            let digest = digest(&client, &place)?;
            client.delete_manifest(&digest)?;
            view::out(&format!("{digest}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Of the manifest that the reference means there.
fn digest(client: &Client<'_>, place: &ImageReference) -> Result<Digest, Failure> {
    match &place.digest {
        Some(digest) => Ok(digest.clone()),
        None => Ok(client.digest_of(place.tag.as_deref().unwrap_or("latest"))?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_a_registry() {
        for (server, expected) in [
            (None, "docker.io"),
            (Some("https://index.docker.io/v1/"), "docker.io"),
            (Some("r.example:5000"), "r.example:5000"),
            (Some("http://127.0.0.1:5000/v2/"), "127.0.0.1:5000"),
        ] {
            assert_eq!(registry_name(server), expected);
        }
    }
}
