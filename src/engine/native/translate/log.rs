//! Where output goes, in the runtime's words.

use super::TranslateError;
use crate::reconcile::resource::ContainerConfig;
use crate::runtime::container::{Log, LogFiles, LogForm, LogService, Syslog, SyslogAddress, SyslogForm, SyslogTls};
use crate::spec::logging::{self, Address, Destination, Files, Form, Message, Problem, Service, Tls};

/// `environment` is the container's, `NAME=value` each.
///
/// # Errors
/// The first thing that is wrong: who reads files and flags has said all of it before.
pub fn log(wanted: &ContainerConfig, environment: &[String]) -> Result<Log, TranslateError> {
    let parsed = logging::parse(wanted.logging.driver.as_deref(), &wanted.logging.options);
    let Destination { files, service, buffer, attributes, tag } = parsed.map_err(wrong)?;
    let labels = wanted.labels.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let attributes = attributes.of(labels, environment.iter().filter_map(|entry| entry.split_once('=')));
    Ok(Log { files: files.map(of_files), service: service.map(of_service), buffer, attributes, tag })
}

fn wrong(problems: Vec<Problem>) -> TranslateError {
    let first = problems.into_iter().next();
    let (message, help) = first.map(|first| (first.message, first.help)).unwrap_or_default();
    TranslateError::Logging { message, help: help.map(|help| format!("\n  help: {help}")).unwrap_or_default() }
}

fn of_files(files: Files) -> LogFiles {
    let form = match files.form {
        Form::JsonFile => LogForm::Json,
        Form::Local => LogForm::Local,
    };
    LogFiles { form, max_size: files.max_size, max_files: files.max_files, compress: files.compress }
}

fn of_service(service: Service) -> LogService {
    let (address, facility, form) = match service {
        Service::Syslog { address, facility, form } => (address, facility, form),
        Service::Journald => return LogService::Journald,
        Service::Plugin { driver, options } => return LogService::Plugin { driver, options },
    };
    let address = match address {
        Address::Local => SyslogAddress::Local,
        Address::Udp(server) => SyslogAddress::Udp(server),
        Address::Tcp(server) => SyslogAddress::Tcp(server),
        Address::Tls(server, tls) => {
            let Tls { ca, client, skip_verify } = tls;
            let client = client.map(|(certificate, key)| (certificate.into(), key.into()));
            SyslogAddress::Tls(server, SyslogTls { ca: ca.map(Into::into), client, skip_verify })
        }
        Address::Unix(path) => SyslogAddress::Unix(path.into()),
        Address::UnixDatagram(path) => SyslogAddress::UnixDatagram(path.into()),
    };
    let form = match form {
        Message::Short => SyslogForm::Short,
        Message::Rfc3164 => SyslogForm::Rfc3164,
        Message::Rfc5424 => SyslogForm::Rfc5424,
        Message::Rfc5424Micro => SyslogForm::Rfc5424Micro,
    };
    LogService::Syslog(Syslog { address, facility, form })
}
