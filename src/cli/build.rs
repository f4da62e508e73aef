//! `build`: an image from a Dockerfile, with docker's flags. What the steps write goes to standard error as they run,
//! the image's id to standard output.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::failure::Failure;
use super::progress::Printer;
use super::{stack_file, view};
use crate::build::{self, Context, DockerfileSource, NamedContext, Network, Request, Secret};
use crate::engine::native::provide_image;
use crate::runtime::image::ImageReference;
use crate::runtime::roots::Roots;

#[derive(Clone, Debug, Args)]
pub struct Build {
    /// The image's name; several are allowed
    #[arg(short, long, value_name = "NAME[:TAG]")]
    pub tag: Vec<String>,
    /// The Dockerfile, `-` for standard input; else CONTEXT/Dockerfile
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A value for an `ARG`; the caller's own variable where none is given
    #[arg(long, value_name = "NAME[=VALUE]")]
    pub build_arg: Vec<String>,
    /// A further place to take files or images from: a directory, or docker-image://NAME
    #[arg(long, value_name = "NAME=PLACE")]
    pub build_context: Vec<String>,
    /// The stage to build; else the last
    #[arg(long, value_name = "STAGE")]
    pub target: Option<String>,
    /// A label of the image
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<String>,
    /// Remember nothing of earlier builds
    #[arg(long)]
    pub no_cache: bool,
    /// Do the steps of this stage anew
    #[arg(long, value_name = "STAGE")]
    pub no_cache_filter: Vec<String>,
    /// Ask the registry for newer images to build on
    #[arg(long)]
    pub pull: bool,
    /// How steps reach the network
    #[arg(long, value_name = "default|none|host")]
    pub network: Option<String>,
    /// A file or variable that steps may see and nothing keeps
    #[arg(long, value_name = "id=NAME[,src=FILE|env=NAME]")]
    pub secret: Vec<String>,
    /// A line of /etc/hosts for the steps
    #[arg(long, value_name = "HOST:ADDRESS")]
    pub add_host: Vec<String>,
    /// Size of /dev/shm for the steps, such as 64m
    #[arg(long, value_name = "SIZE")]
    pub shm_size: Option<String>,
    /// A limit of each process of the steps
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    pub ulimit: Vec<String>,
    /// Only this host's own is built for
    #[arg(long, value_name = "OS/ARCHITECTURE")]
    pub platform: Option<String>,
    /// Write the image's id to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Draw progress where standard error is a terminal, or write plain lines
    #[arg(long, value_enum, default_value_t)]
    pub progress: Progress,
    /// Print nothing but the image's id
    #[arg(short, long)]
    pub quiet: bool,
    /// A directory, or `-` for a Dockerfile on standard input without any files
    #[arg(value_name = "CONTEXT|-")]
    pub context: PathBuf,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    #[default]
    Auto,
    Plain,
}

pub fn build(roots: &Roots, arguments: &Build) -> Result<ExitCode, Failure> {
    let request = request(arguments)?;
    let printer = Printer::new(arguments.quiet);
    let built = build::build(roots, &request, &provide_image(roots), &|event| printer.event(&event));
    let built = built.map_err(|error| Failure::new(error.render(view::color())))?;
    let id = built.image.id.to_string();
    if let Some(file) = &arguments.iidfile {
        std::fs::write(file, &id).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    }
    printer.end(&built, &request.names);
    view::out(&format!("{id}\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn wrong(flag: &str, value: &str, expected: &str) -> Failure {
    Failure::new(format!("{flag} {value:?}: {expected}"))
}

fn request(arguments: &Build) -> Result<Request, Failure> {
    let environment = stack_file::environment();
    let here = std::env::current_dir()?;
    let (context, dockerfile) = inputs(arguments, &here)?;
    let own = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => environment.get(text).map(|value| (text.clone(), value.clone())),
    };
    let build_arguments: BTreeMap<String, String> = arguments.build_arg.iter().filter_map(own).collect();
    for name in &arguments.tag {
        ImageReference::parse(name)?;
    }
    if let Some(platform) = &arguments.platform
        && !build::is_host(platform)
    {
        return Err(wrong("--platform", platform, "only this host's own is built for"));
    }
    let pair = |flag: &'static str| {
        move |text: &String| match text.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(wrong(flag, text, "expected KEY=VALUE")),
        }
    };
    Ok(Request {
        epoch: epoch(&build_arguments, &environment)?,
        context,
        dockerfile,
        target: arguments.target.clone(),
        arguments: build_arguments,
        labels: arguments.label.iter().map(pair("--label")).collect::<Result<_, _>>()?,
        contexts: arguments.build_context.iter().map(|text| named_context(text, &here)).collect::<Result<_, _>>()?,
        secrets: arguments.secret.iter().map(|text| secret(text, &here, &environment)).collect::<Result<_, _>>()?,
        network: network(arguments.network.as_deref())?,
        no_cache: arguments.no_cache,
        no_cache_filter: arguments.no_cache_filter.iter().cloned().collect(),
        pull: arguments.pull,
        extra_hosts: arguments.add_host.iter().map(|text| host(text)).collect::<Result<_, _>>()?,
        shm_size: match &arguments.shm_size {
            None => None,
            Some(text) => {
                Some(build::units::bytes(text).ok_or_else(|| wrong("--shm-size", text, "a size such as 64m"))?)
            }
        },
        ulimits: arguments.ulimit.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
        names: arguments.tag.clone(),
        ..Request::default()
    })
}

/// Where the files are, and the Dockerfile.
fn inputs(arguments: &Build, here: &Path) -> Result<(Context, DockerfileSource), Failure> {
    let stdin = || -> Result<DockerfileSource, Failure> {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text)?;
        Ok(DockerfileSource::Text(text))
    };
    if arguments.context.as_os_str() == "-" {
        return match &arguments.file {
            None => Ok((Context::Nothing, stdin()?)),
            Some(file) => Ok((Context::Nothing, DockerfileSource::File(here.join(file)))),
        };
    }
    let directory = here.join(&arguments.context);
    let directory = directory
        .canonicalize()
        .map_err(|error| Failure::new(format!("context {}: {error}", arguments.context.display())))?;
    if !directory.is_dir() {
        let help = "the context is a directory; a Dockerfile is named with -f";
        return Err(Failure::new(format!("context {} is no directory\n  help: {help}", directory.display())));
    }
    let dockerfile = match &arguments.file {
        None => DockerfileSource::File(build::default_dockerfile(&directory)),
        Some(file) if file.as_os_str() == "-" => stdin()?,
        Some(file) => DockerfileSource::File(here.join(file)),
    };
    Ok((Context::Directory(directory), dockerfile))
}

/// The argument wins over the caller's variable.
fn epoch(arguments: &BTreeMap<String, String>, environment: &BTreeMap<String, String>) -> Result<Option<u64>, Failure> {
    const NAME: &str = "SOURCE_DATE_EPOCH";
    let text = arguments.get(NAME).or_else(|| environment.get(NAME)).filter(|text| !text.is_empty());
    let parse = |text: &String| text.parse().map_err(|_| wrong(NAME, text, "expected seconds since 1970"));
    text.map(parse).transpose()
}

fn network(text: Option<&str>) -> Result<Network, Failure> {
    match text {
        None | Some("default") => Ok(Network::Default),
        Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(wrong("--network", other, "there is default, none and host")),
    }
}

fn named_context(text: &str, here: &Path) -> Result<(String, NamedContext), Failure> {
    let expected = "expected NAME=DIRECTORY or NAME=docker-image://IMAGE";
    let (name, place) = text.split_once('=').ok_or_else(|| wrong("--build-context", text, expected))?;
    let place = match place.strip_prefix("docker-image://") {
        Some(image) => NamedContext::Image(image.to_owned()),
        None if place.contains("://") => return Err(wrong("--build-context", text, expected)),
        None => NamedContext::Directory(here.join(place)),
    };
    Ok((name.to_owned(), place))
}

fn secret(text: &str, here: &Path, environment: &BTreeMap<String, String>) -> Result<(String, Secret), Failure> {
    let expected = "expected id=NAME, and src=FILE or env=NAME";
    let (mut id, mut source, mut variable) = (None, None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("id", value)) => id = Some(value.to_owned()),
            Some(("src" | "source", value)) => source = Some(here.join(value)),
            Some(("env", value)) => variable = Some(value.to_owned()),
            Some(("type", "file" | "env")) => {}
            _ => return Err(wrong("--secret", text, expected)),
        }
    }
    let id = id.ok_or_else(|| wrong("--secret", text, expected))?;
    let secret = match (source, variable) {
        (Some(path), _) => Secret::File(path),
        (None, variable) => {
            let name = variable.unwrap_or_else(|| id.clone());
            let value = environment.get(&name);
            let value = value.cloned().ok_or_else(|| wrong("--secret", text, "there is no such variable"))?;
            Secret::Value(value.into_bytes())
        }
    };
    Ok((id, secret))
}

fn host(text: &str) -> Result<(String, String), Failure> {
    let pair = text.split_once('=').or_else(|| text.split_once(':'));
    let (name, address) = pair.ok_or_else(|| wrong("--add-host", text, "expected HOST:ADDRESS"))?;
    Ok((name.to_owned(), address.trim_matches(['[', ']']).to_owned()))
}

fn ulimit(text: &str) -> Result<(String, (i64, i64)), Failure> {
    let expected = || wrong("--ulimit", text, "expected NAME=SOFT[:HARD]");
    let (name, limits) = text.split_once('=').ok_or_else(expected)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let parse = |text: &str| text.parse::<i64>().map_err(|_| expected());
    Ok((name.to_owned(), (parse(soft)?, parse(hard)?)))
}
