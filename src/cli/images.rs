//! Images as objects: fetched, sent, named, kept in files, verified, removed.

use std::fs::File;
use std::io::{IsTerminal, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::args::{
    Export, Format, ImageCommand, Images, Load, Login, Prune, Pull, Push, RegistryCommand, Rmi, Save, Verify,
};
use super::bars::{Bars, Show};
use super::containers::show;
use super::failure::Failure;
use super::objects::{Kind, asked, inspect};
use super::view::{self, Table};
use crate::engine::native::{Watcher, ensure_image};
use crate::reconcile::resource::{ImageConfig, ImageSource, PullPolicy};
use crate::runtime::image::archive;
use crate::runtime::image::registry::credentials;
use crate::runtime::image::{
    self, Access, Client, Credentials, Damage, Image, ImageReference, Platform, Progress, PullOptions, Settings, Store,
    Wait,
};
use crate::runtime::overlay;
use crate::runtime::roots::Roots;

pub fn image(roots: &Roots, command: &ImageCommand) -> Result<ExitCode, Failure> {
    match command {
        ImageCommand::Ls(arguments) => images(roots, arguments),
        ImageCommand::Pull(arguments) => pull(roots, arguments),
        ImageCommand::Push(arguments) => push(roots, arguments),
        ImageCommand::Inspect(arguments) => inspect(roots, arguments, &[Kind::Image]),
        ImageCommand::Rm(arguments) => rmi(roots, arguments),
        ImageCommand::Tag { image, name } => tag(roots, image, name),
        ImageCommand::History { image, format } => history(roots, image, format.format),
        ImageCommand::Load(arguments) => load(roots, arguments),
        ImageCommand::Save(arguments) => save(roots, arguments),
        ImageCommand::Import { source, name } => import(roots, source, name),
        ImageCommand::Verify(arguments) => verify(roots, arguments),
        ImageCommand::Prune(arguments) => prune(roots, arguments),
    }
}

fn store(roots: &Roots) -> Result<(Store, Settings), Failure> {
    let settings = Settings::of_host(roots)?;
    Ok((Store::open(roots).with_limits(&settings.limits), settings))
}

pub fn images(roots: &Roots, arguments: &Images) -> Result<ExitCode, Failure> {
    let mut images = Store::open(roots).list()?;
    for filter in &arguments.filter {
        let (key, value) = filter.split_once('=').unwrap_or((filter, ""));
        keep(&mut images, key, value)?;
    }
    if let Some(reference) = &arguments.reference {
        images.retain(|image| matches_reference(image, reference));
    }
    if arguments.list.quiet {
        let lines: String = images.iter().map(|image| format!("{}\n", name_or_id(image))).collect();
        view::out(&lines)?;
        return Ok(ExitCode::SUCCESS);
    }
    let headings: &[&str] =
        if arguments.digests { &["IMAGE", "DIGEST", "ID", "SIZE"] } else { &["IMAGE", "ID", "SIZE"] };
    let mut table = Table::new(headings);
    for image in &images {
        let mut row = vec![image.reference.clone(), image.id.hex()[..12].to_owned(), view::size(image.size)];
        if arguments.digests {
            row.insert(1, image.digest.to_string());
        }
        table.row(row);
    }
    let values: Vec<Value> = images.iter().map(value).collect();
    show(arguments.list.format.format, &table, &values)
}

fn name_or_id(image: &Image) -> &str {
    if image.reference == "<none>" { image.id.as_str() } else { &image.reference }
}

/// docker's filters: `dangling`, `label`, `reference`, `before`, `since`.
fn keep(images: &mut Vec<Image>, key: &str, value: &str) -> Result<(), Failure> {
    let created = |images: &[Image], name: &str| {
        let found = images.iter().find(|image| matches_reference(image, name) || image.id.hex().starts_with(name));
        found.map(|image| image.created_ms).ok_or_else(|| Failure::new(image::Error::NotFound(name.to_owned())))
    };
    match key {
        "dangling" => {
            let wanted = matches!(value, "true" | "1");
            images.retain(|image| (image.reference == "<none>") == wanted);
        }
        "label" => {
            let (label, wanted) = value.split_once('=').map_or((value, None), |(label, wanted)| (label, Some(wanted)));
            images.retain(|image| {
                let labels = image.config.config().as_ref().and_then(|config| config.labels().as_ref());
                let found = labels.and_then(|labels| labels.get(label));
                found.is_some_and(|found| wanted.is_none_or(|wanted| wanted == found))
            });
        }
        "reference" => images.retain(|image| matches_reference(image, value)),
        "before" => {
            let than = created(images, value)?;
            images.retain(|image| image.created_ms < than);
        }
        "since" => {
            let than = created(images, value)?;
            images.retain(|image| image.created_ms > than);
        }
        other => {
            return Err(Failure::new(format!(
                "there is no filter {other:?}\n  help: dangling, label, reference, before, since"
            )));
        }
    }
    Ok(())
}

/// `*` stands for any text without a slash; a name without a tag for all its tags.
fn matches_reference(image: &Image, pattern: &str) -> bool {
    image::spellings(&image.reference).iter().any(|name| {
        let bare = name.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')).map_or(name.as_str(), |(name, _)| name);
        glob(pattern, name) || glob(pattern, bare)
    })
}

fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((before, after)) => {
            let Some(rest) = text.strip_prefix(before) else { return false };
            let ends = rest.char_indices().map(|(at, _)| at).chain([rest.len()]);
            ends.take_while(|at| !rest[..*at].contains('/')).any(|at| glob(after, &rest[at..]))
        }
    }
}

pub fn value(image: &Image) -> Value {
    json!({"kind": "image", "name": image.reference, "id": image.id, "digest": image.digest,
           "manifest": image.manifest, "place": image.place, "size_bytes": image.size, "created_ms": image.created_ms,
           "layers": image.layers, "config": image.config})
}

pub fn pull(roots: &Roots, arguments: &Pull) -> Result<ExitCode, Failure> {
    let shown = match (arguments.quiet, arguments.format.format) {
        (true, _) => Show::Nothing,
        (_, Format::Json) => Show::Programs,
        _ => Show::People,
    };
    let bars = Bars::new(shown);
    for reference in &arguments.references {
        let names = match arguments.all_tags {
            true => all_tags(roots, reference, &bars)?,
            false => vec![reference.clone()],
        };
        for name in names {
            let source = ImageSource::Pull { reference: name.clone(), digest: None };
            let platform = arguments.platform.clone();
            let wanted = ImageConfig { reference: name, source, pull_policy: PullPolicy::Always, platform };
            let image = ensure_image(roots, &wanted, &bars)?;
            match shown {
                Show::Programs => view::out(&format!(
                    "{}\n",
                    json!({"image": image.reference, "state": "pulled", "digest": image.digest})
                ))?,
                Show::People => bars.line(&format!("{}: {}", image.reference, image.digest)),
                Show::Nothing => {}
            }
            if shown != Show::Programs {
                view::out(&format!("{}\n", image.reference))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
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
    let (store, settings) = store(roots)?;
    let shown = match (arguments.quiet, arguments.format.format) {
        (true, _) => Show::Nothing,
        (_, Format::Json) => Show::Programs,
        _ => Show::People,
    };
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
    let waiting = |wait: &Wait<'_>| eprintln!("waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason);
    let access = Access { settings: &settings, keyring: &keyring, waiting: &waiting };
    Client::of_registry(&registry, access).check_login()?;
    let place = credentials::store(&registry, &known)?;
    eprintln!("logged in to {registry}; kept in {place}");
    Ok(ExitCode::SUCCESS)
}

pub fn logout(server: Option<&str>) -> Result<ExitCode, Failure> {
    let registry = registry_name(server);
    let known = credentials::erase(&registry)?;
    eprintln!(
        "{}",
        if known { format!("logged out of {registry}") } else { format!("there was no login to {registry}") }
    );
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
    eprint!("{what}: ");
    std::io::stderr().flush()?;
    let hidden = if shown { None } else { Some(super::terminal::Hidden::begin()?) };
    let mut text = String::new();
    std::io::stdin().read_line(&mut text)?;
    if hidden.is_some() {
        eprintln!();
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

pub fn rmi(roots: &Roots, arguments: &Rmi) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let mut failures = Vec::new();
    for name in &arguments.names {
        match store.remove(name) {
            Ok(gone) if gone.is_empty() => failures.push(format!("no image {name:?} in the store")),
            Ok(_) => view::out(&format!("{name}\n"))?,
            Err(error) => failures.push(error.to_string()),
        }
    }
    if failures.is_empty() || arguments.force && failures.iter().all(|text| text.starts_with("no image")) {
        return Ok(ExitCode::SUCCESS);
    }
    Err(Failure::new(failures.join("\nerror: ")))
}

pub fn tag(roots: &Roots, image: &str, name: &str) -> Result<ExitCode, Failure> {
    Store::open(roots).tag(image, name)?;
    Ok(ExitCode::SUCCESS)
}

pub fn history(roots: &Roots, name: &str, format: Format) -> Result<ExitCode, Failure> {
    let image = find(roots, name)?;
    let mut table = Table::new(&["CREATED", "CREATED BY", "COMMENT"]);
    let history = image.config.history().clone().unwrap_or_default();
    for one in history.iter().rev() {
        let created = one.created().clone().unwrap_or_else(|| "-".to_owned());
        let by: String = one.created_by().clone().unwrap_or_default().chars().take(60).collect();
        table.row([created, by, one.comment().clone().unwrap_or_default()]);
    }
    let values: Vec<Value> = history.iter().rev().map(|one| json!(one)).collect();
    show(format, &table, &values)
}

fn find(roots: &Roots, name: &str) -> Result<Image, Failure> {
    Ok(Store::open(roots).get(name)?.ok_or_else(|| image::Error::NotFound(name.to_owned()))?)
}

pub fn load(roots: &Roots, arguments: &Load) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let platform = arguments.platform.as_deref();
    let wrong = |text: &str| image::Error::Platform(text.to_owned());
    let platform = platform.map(|text| Platform::parse(text).ok_or_else(|| wrong(text))).transpose()?;
    let input = arguments.input.as_deref().unwrap_or(Path::new("/dev/stdin"));
    for image in archive::load(&store, input, arguments.tag.as_deref(), platform.as_ref())? {
        view::out(&format!("{}\n", name_or_id(&image)))?;
    }
    Ok(ExitCode::SUCCESS)
}

pub fn save(roots: &Roots, arguments: &Save) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let mut images: Vec<(Image, Vec<String>)> = Vec::new();
    for name in &arguments.names {
        let image = find(roots, name)?;
        let own = (image.reference != "<none>" && !image.id.hex().starts_with(name.trim_start_matches("sha256:")))
            .then(|| {
                ImageReference::parse(&image.reference).map_or_else(|_| image.reference.clone(), |one| one.to_string())
            });
        match images.iter_mut().find(|(one, _)| one.manifest == image.manifest) {
            Some((_, names)) => names.extend(own),
            None => images.push((image, own.into_iter().collect())),
        }
    }
    let format = match arguments.format {
        super::args::ArchiveFormat::DockerArchive => archive::Format::Docker,
        super::args::ArchiveFormat::OciArchive => archive::Format::Oci,
    };
    written(arguments.output.as_deref(), |to| Ok(archive::save(&store, &images, format, to)?))
}

/// To a file, which is there whole or not at all, or to standard output, which must not be a terminal.
fn written(
    path: Option<&Path>,
    write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
) -> Result<ExitCode, Failure> {
    let Some(path) = path else {
        if std::io::stdout().is_terminal() {
            return Err(Failure::new("an archive is not written to a terminal\n  help: `-o FILE`, or a pipe"));
        }
        write(&mut std::io::stdout().lock())?;
        return Ok(ExitCode::SUCCESS);
    };
    let at = |error: std::io::Error| Failure::new(format!("{}: {error}", path.display()));
    let regular = std::fs::metadata(path).map_or(true, |data| data.is_file());
    if !regular {
        write(&mut File::options().write(true).open(path).map_err(at)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let done = (|| {
        let mut file = File::create_new(&temporary).map_err(at)?;
        write(&mut file)?;
        std::fs::rename(&temporary, path).map_err(at)
    })();
    if done.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    done?;
    Ok(ExitCode::SUCCESS)
}

pub fn import(roots: &Roots, source: &Path, name: &str) -> Result<ExitCode, Failure> {
    let (store, _) = store(roots)?;
    let source = if source == Path::new("-") { Path::new("/dev/stdin") } else { source };
    let image = store.import_rootfs(source, name)?;
    view::out(&format!("{}\n", image.id))?;
    Ok(ExitCode::SUCCESS)
}

/// A container's whole file system, as a tar.
pub fn export(roots: &Roots, arguments: &Export) -> Result<ExitCode, Failure> {
    let found = crate::runtime::container::get(roots, &arguments.container)?;
    let upper = crate::runtime::container::Paths::of(roots, &found.config.name).upper;
    let layers: Vec<_> = found.config.layers.iter().cloned().chain([upper]).collect();
    written(arguments.output.as_deref(), |to| {
        let whole = overlay::open(&layers, None)?;
        image::pack(whole.as_fd(), None, &image::Pack::default(), std::io::BufWriter::with_capacity(1 << 20, to))?;
        Ok(())
    })
}

pub fn verify(roots: &Roots, arguments: &Verify) -> Result<ExitCode, Failure> {
    let (store, settings) = store(roots)?;
    let waiting = |wait: &Wait<'_>| eprintln!("waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason);
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    let repair = arguments.repair.then_some(access);
    let mut found = Vec::new();
    if arguments.names.is_empty() {
        found = store.verify(None, repair)?;
    }
    for name in &arguments.names {
        found.extend(store.verify(Some(name), repair)?);
    }
    let mut table = Table::new(&["IMAGE", "STATE", "DETAIL"]);
    let say = |damage: &Damage| match damage {
        Damage::Blob(digest) => format!("blob {digest} is missing or damaged"),
        Damage::Layer { layer, place } => format!("layer {layer} differs at {place}"),
    };
    let mut values = Vec::new();
    for one in &found {
        let state = if one.damages.is_empty() {
            "ok"
        } else if one.repaired {
            "repaired"
        } else {
            "DAMAGED"
        };
        let details: Vec<String> = one.damages.iter().map(say).collect();
        table.row([one.name.clone(), state.to_owned(), details.join("; ")]);
        values.push(json!({"name": one.name, "state": state.to_ascii_lowercase(), "damages": details}));
    }
    show(arguments.format.format, &table, &values)?;
    let good = found.iter().all(|one| one.damages.is_empty() || one.repaired);
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn prune(roots: &Roots, arguments: &Prune) -> Result<ExitCode, Failure> {
    let what = if arguments.all { "images that no container uses" } else { "images without a name" };
    if !arguments.force && !asked(&format!("remove {what}?"))? {
        return Err(Failure::new("nothing was removed\n  help: `--force` consents where nobody can be asked"));
    }
    let which = if arguments.all { image::Prune::Unused } else { image::Prune::Nameless };
    let store = Store::open(roots);
    let before = store.size()?;
    for name in store.prune(which)? {
        view::out(&format!("{name}\n"))?;
    }
    eprintln!("{} less", view::size(before.saturating_sub(store.size()?)));
    Ok(ExitCode::SUCCESS)
}

pub fn registry(roots: &Roots, command: &RegistryCommand) -> Result<ExitCode, Failure> {
    let settings = Settings::of_host(roots)?;
    let waiting = |wait: &Wait<'_>| eprintln!("waiting {:.1} s for {}: {}", wait.seconds, wait.host, wait.reason);
    let access = Access { settings: &settings, keyring: &credentials::of_user, waiting: &waiting };
    match command {
        RegistryCommand::Tags { repository, format } => {
            let place = ImageReference::parse(repository)?;
            let tags = Client::new(&place, access).tags()?;
            match format.format {
                Format::Json => view::json(&tags)?,
                Format::Table => view::out(&tags.iter().map(|tag| view::printable(tag) + "\n").collect::<String>())?,
            }
        }
        RegistryCommand::Referrers { reference, format } => {
            let place = ImageReference::parse(reference)?;
            let client = Client::new(&place, access);
            let digest = match &place.digest {
                Some(digest) => digest.clone(),
                None => client.digest_of(place.tag.as_deref().unwrap_or("latest"))?,
            };
            let found = client.referrers(&digest)?;
            let mut table = Table::new(&["DIGEST", "TYPE", "SIZE"]);
            for one in &found {
                let kind = one.artifact_type.as_ref().unwrap_or(&one.media_type);
                table.row([one.digest.to_string(), kind.clone(), view::size(one.size)]);
            }
            let values: Vec<Value> = found.iter().map(|one| json!(one)).collect();
            return show(format.format, &table, &values);
        }
        RegistryCommand::Delete { reference } => {
            let place = ImageReference::parse(reference)?;
            let client = Client::new(&place, access);
            let digest = match &place.digest {
                Some(digest) => digest.clone(),
                None => client.digest_of(place.tag.as_deref().unwrap_or("latest"))?,
            };
            client.delete_manifest(&digest)?;
            view::out(&format!("{digest}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_a_part() {
        for (pattern, text, expected) in [
            ("nginx", "nginx", true),
            ("nginx", "nginx2", false),
            ("ngin*", "nginx", true),
            ("*/app:*", "r.example/app:1", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("a*c*e", "abcde", true),
        ] {
            assert_eq!(glob(pattern, text), expected, "{pattern} {text}");
        }
    }

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
