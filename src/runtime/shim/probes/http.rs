//! One GET. The answer's headers and body are somebody else's: both are bounded, and nothing of them is followed.

use std::io::Read;

use ureq::Agent;
use ureq::http::{Request, header};
use ureq::tls::TlsConfig;

use super::{LONGEST, connect, shown};
use crate::runtime::container::Place;

/// The largest head of an answer, in bytes.
const LARGEST_HEAD: usize = 16 << 10;
const AGENT: &str = concat!("stack-probe/", env!("CARGO_PKG_VERSION"));

pub fn ask(
    place: &Place,
    path: &str,
    tls: bool,
    headers: &[(String, String)],
    good: &[(u16, u16)],
) -> Result<String, String> {
    // Which of the addresses it is.
    let (_, address) = connect(place)?;
    let url = format!("{}://{address}{path}", if tls { "https" } else { "http" });
    let failed = |error: &dyn std::fmt::Display| format!("GET {url}: {error}");
    let mut request = Request::get(&url);
    // A name where no address was asked for: servers look at it.
    if place.host.is_none() && !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header(header::HOST, format!("localhost:{}", place.port));
    }
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let request = request.body(()).map_err(|error| failed(&error))?;
    let response = agent().run(request).map_err(|error| failed(&error))?;
    let status = response.status();
    let said = format!("GET {url}: {status}");
    if good.iter().any(|(first, last)| (*first..=*last).contains(&status.as_u16())) {
        return Ok(said);
    }
    let mut body = Vec::new();
    // As much as came; the status is what counts.
    drop(response.into_body().into_reader().take(LONGEST as u64).read_to_end(&mut body));
    let body = shown(&body);
    Err(if body.is_empty() { said } else { format!("{said}: {body}") })
}

fn agent() -> Agent {
    // The certificate is often made for another name, or by nobody known; as Kubernetes has it.
    let tls = TlsConfig::builder().disable_verification(true).build();
    let config = Agent::config_builder().tls_config(tls).proxy(None).http_status_as_error(false).max_redirects(0);
    let config = config.max_redirects_will_error(false).max_response_header_size(LARGEST_HEAD).user_agent(AGENT);
    config.build().new_agent()
}
