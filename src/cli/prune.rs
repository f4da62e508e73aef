//! `prune`: removes what is of no use to anything. What belongs to a stack is that stack's alone: never touched here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;

use super::args::{ImagePrune, Prune, SystemPrune, VolumePrune};
use super::failure::Failure;
use super::filter::Filters;
use super::{containers as verbs, converge, images, logs, view};
use crate::engine::native::{forget_stack, is_anonymous_volume, remembered_stacks, remove_network, volume_users};
use crate::reconcile::resource::label;
use crate::runtime::container::{self, Container};
use crate::runtime::image::{self, Image, Store};
use crate::runtime::roots::Roots;
use crate::runtime::volume::{Removal, trash};
use crate::runtime::{network, volume};

/// What `--filter` leaves.
struct Wanted {
    filters: Filters,
    /// Milliseconds since 1970; what is younger stays.
    until: Option<u64>,
}

impl Wanted {
    fn of(arguments: &Prune) -> Result<Self, Failure> {
        let filters = Filters::parse(&arguments.filter, &["label", "label!", "until"])?;
        let until = filters.first("until").map(|text| logs::moment("--filter until", text, jiff::Timestamp::now()));
        let until = until.transpose()?.map(|time| u64::try_from(time.as_millisecond()).unwrap_or(0));
        Ok(Self { filters, until })
    }

    fn is_everything(&self) -> bool {
        self.until.is_none() && self.filters.is_empty()
    }

    /// `created_ms` is `None` where nobody knows: then an age keeps it.
    fn takes(&self, labels: &BTreeMap<String, String>, created_ms: Option<u64>) -> bool {
        let old = self.until.is_none_or(|until| created_ms.is_some_and(|created| created <= until));
        old && !labels.contains_key(label::STACK) && self.filters.labels(labels)
    }
}

pub fn containers(roots: &Roots, arguments: &Prune) -> Result<ExitCode, Failure> {
    consent(arguments, "remove all stopped containers of no stack?")?;
    told(stopped_containers(roots, &Wanted::of(arguments)?)?)
}

pub fn networks(roots: &Roots, arguments: &Prune) -> Result<ExitCode, Failure> {
    consent(arguments, "remove all networks that no container uses and that belong to no stack?")?;
    told(unused_networks(roots, &Wanted::of(arguments)?)?)
}

pub fn volumes(roots: &Roots, arguments: &VolumePrune) -> Result<ExitCode, Failure> {
    if arguments.trash {
        consent(&arguments.prune, "delete all volumes that are in the trash?")?;
        return told(trashed(roots, u64::MAX)?);
    }
    let removal = if arguments.now { Removal::Now } else { Removal::Trash };
    let which = if arguments.all { "all volumes" } else { "all volumes without a name" };
    let question = format!("remove {which} that no container uses and that belong to no stack, with their data?");
    consent(&arguments.prune, &question)?;
    told(unused_volumes(roots, &Wanted::of(&arguments.prune)?, arguments.all, removal)?)
}

pub fn images(roots: &Roots, arguments: &ImagePrune) -> Result<ExitCode, Failure> {
    let which = if arguments.all { "all images" } else { "all images without a name" };
    consent(&arguments.prune, &format!("remove {which} that no container uses?"))?;
    told(unused_images(roots, &Wanted::of(&arguments.prune)?, arguments.all)?)
}

pub fn system(roots: &Roots, arguments: &SystemPrune) -> Result<ExitCode, Failure> {
    let mut what = vec!["stopped containers of no stack", "unused networks of no stack"];
    what.push(if arguments.all { "unused images" } else { "unused images without a name" });
    what.extend(["what builds remember", "what is known of stacks that hold nothing any more"]);
    what.extend(arguments.volumes.then_some("unused volumes without a name, with their data"));
    consent(&arguments.prune, &format!("remove {}?", what.join(", ")))?;
    let wanted = Wanted::of(&arguments.prune)?;
    let mut reclaimed = stopped_containers(roots, &wanted)?;
    reclaimed += unused_networks(roots, &wanted)?;
    if arguments.volumes {
        reclaimed += unused_volumes(roots, &wanted, false, Removal::Trash)?;
    }
    reclaimed += unused_images(roots, &wanted, arguments.all)?;
    if wanted.is_everything() {
        reclaimed += build_steps(roots)?;
        histories(roots)?;
    }
    told(reclaimed)
}

fn told(reclaimed: u64) -> Result<ExitCode, Failure> {
    view::out(&format!("Total reclaimed space: {}\n", view::size(reclaimed)))?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes that were freed.
fn stopped_containers(roots: &Roots, wanted: &Wanted) -> Result<u64, Failure> {
    let goes = |one: &Container| !one.is_running() && wanted.takes(&one.config.labels, Some(one.config.created_ms));
    let mut bytes = 0;
    // One whose supervisor was killed may be about to be started again.
    for one in container::adopt_all(roots, container::list(roots)?)?.into_iter().filter(goes) {
        let name = &one.config.name;
        let size = container::written_bytes(roots, name)?;
        verbs::remove(roots, name, false, false)?;
        bytes += size;
        view::out(&format!("container {name}\n"))?;
    }
    Ok(bytes)
}

/// Of stacks that have no container, network or volume left: nothing is to be gone back to.
fn histories(roots: &Roots) -> Result<(), Failure> {
    let of_stack = |labels: &BTreeMap<String, String>| labels.get(label::STACK).cloned();
    let mut held: BTreeSet<String> =
        container::list(roots)?.iter().filter_map(|one| of_stack(&one.config.labels)).collect();
    held.extend(network::list(roots)?.iter().filter_map(|one| of_stack(&one.config.labels)));
    held.extend(volume::list(roots)?.iter().filter_map(|one| of_stack(&one.config.labels)));
    for stack in remembered_stacks(roots)?.into_iter().filter(|stack| !held.contains(stack.as_str())) {
        let _lock = converge::lock(roots, &stack)?;
        forget_stack(roots, &stack)?;
        view::out(&format!("history of {}\n", stack.as_str()))?;
    }
    Ok(())
}

fn unused_networks(roots: &Roots, wanted: &Wanted) -> Result<u64, Failure> {
    let used: BTreeSet<String> =
        network::attachments(roots)?.into_iter().flat_map(|one| one.endpoints.into_keys()).collect();
    for one in network::list(roots)? {
        if !used.contains(&one.config.name) && wanted.takes(&one.config.labels, None) {
            remove_network(roots, &one.config.name)?;
            view::out(&format!("network {}\n", one.config.name))?;
        }
    }
    Ok(0)
}

/// Of what goes into the trash nothing is freed yet; what has been there for too long is.
fn unused_volumes(roots: &Roots, wanted: &Wanted, named: bool, removal: Removal) -> Result<u64, Failure> {
    let kept = trash::time_to_live(roots)?;
    let removal = if kept.is_zero() { Removal::Now } else { removal };
    let now = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or(0);
    let mut bytes = trashed(roots, now.saturating_sub(u64::try_from(kept.as_millis()).unwrap_or(u64::MAX)))?;
    let mut moved = 0;
    for one in volume::list(roots)? {
        let name = &one.config.name;
        let goes = (named || is_anonymous_volume(&one))
            && !one.config.protect
            && wanted.takes(&one.config.labels, Some(one.created * 1000));
        let users = volume_users(roots, name)?;
        if goes && users.is_empty() {
            let size = volume::size(roots, name)?;
            volume::remove(roots, name, &users, removal)?;
            *if removal == Removal::Now { &mut bytes } else { &mut moved } += size;
            view::out(&format!("volume {name}\n"))?;
        }
    }
    if moved > 0 {
        let text = "still in the trash; `stack volume undelete` brings volumes back, `stack volume prune --trash` deletes them";
        writeln!(std::io::stderr(), "{} {text}", view::size(moved))?;
    }
    Ok(bytes)
}

/// Deletes what was removed until then.
fn trashed(roots: &Roots, until_ms: u64) -> Result<u64, Failure> {
    let (gone, bytes) = trash::purge(roots, until_ms)?;
    for one in &gone {
        view::out(&format!("trash {}\n", one.id))?;
    }
    Ok(bytes)
}

/// `named`: also those that have a name. Labels and age are looked at one by one, since the store knows neither.
fn unused_images(roots: &Roots, wanted: &Wanted, named: bool) -> Result<u64, Failure> {
    let store = Store::open(roots);
    let before = store.size()?;
    let mut gone = Vec::new();
    if wanted.is_everything() {
        gone = store.prune(if named { image::Prune::Unused } else { image::Prune::Nameless })?;
    } else {
        let used: BTreeSet<String> = container::list(roots)?.into_iter().map(|one| one.config.image_id).collect();
        let takes = |image: &Image| {
            !used.contains(image.id.as_str())
                && (named || image.reference == images::NAMELESS)
                && wanted.takes(&images::labels(image), Some(images::created_ms(image)))
        };
        for image in store.list()?.iter().filter(|image| takes(image)) {
            let name = if image.reference == images::NAMELESS { image.id.as_str() } else { &image.reference };
            gone.extend(store.remove(name)?);
        }
    }
    for name in &gone {
        view::out(&format!("image {name}\n"))?;
    }
    Ok(before.saturating_sub(store.size()?))
}

/// What builds remember, and what is left of builds that were killed.
fn build_steps(roots: &Roots) -> Result<u64, Failure> {
    crate::build::sweep(roots)?;
    let store = Store::open(roots);
    let before = store.size()?;
    let steps = store.prune_steps()?;
    if steps > 0 {
        view::out(&format!("{steps} remembered steps of builds\n"))?;
    }
    Ok(before.saturating_sub(store.size()?))
}

/// Asks where somebody can answer; elsewhere `--force` is the answer.
fn consent(arguments: &Prune, question: &str) -> Result<(), Failure> {
    if arguments.force {
        return Ok(());
    }
    let refused = || Failure::new("nothing was removed\n  help: `--force` consents where nobody can be asked");
    if asked(question)? { Ok(()) } else { Err(refused()) }
}

/// Whether somebody at the terminal has typed `y` or `yes`. Nobody is asked where there is none.
pub fn asked(question: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Ok(false);
    }
    write!(std::io::stderr(), "{question} [y/N] ")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
