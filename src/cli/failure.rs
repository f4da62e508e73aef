//! How a command ends when it can't do what was asked.

use std::fmt::Display;
use std::process::ExitCode;

use super::view;

/// What is printed on standard error, and the exit code.
#[derive(Debug)]
pub struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    /// The message says what failed, where, and what to do. Exit code 1.
    pub fn new(message: impl Display) -> Self {
        Self { message: message.to_string(), code: 1 }
    }

    /// With another exit code: 125 to 127 of `run` and `exec`.
    pub fn with_code(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Success where nothing failed, else one failure that tells all.
    pub fn of_all(failures: Vec<Self>) -> Result<ExitCode, Self> {
        let messages: Vec<String> = failures.into_iter().map(|failure| failure.message).collect();
        if messages.is_empty() { Ok(ExitCode::SUCCESS) } else { Err(Self::new(messages.join("\nerror: "))) }
    }

    /// Prints it and gives the code to exit with. Diagnostics that already begin with a title keep it.
    pub fn report(&self) -> ExitCode {
        let title = if self.message.starts_with("error") { "" } else { "error: " };
        view::note(&format!("{title}{}", shown(self.message.trim_end())));
        ExitCode::from(self.code)
    }
}

/// Lines stay lines; what else would steer a terminal is of an image, a registry or a runtime, whose words are in it.
fn shown(message: &str) -> String {
    let of_line = |line: &str| line.split('\t').map(view::printable).collect::<Vec<_>>().join("\t");
    message.split('\n').map(of_line).collect::<Vec<_>>().join("\n")
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            let text = inner.to_string();
            // Many errors already show their source.
            if !message.contains(&text) {
                message.push_str(&format!(": {text}"));
            }
            source = inner.source();
        }
        Self::new(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_lines_and_their_distances_reaches_the_terminal() {
        assert_eq!(shown("a: b\n\thelp: c"), "a: b\n\thelp: c");
        assert_eq!(shown("a \u{1b}[31mb\r\u{9b}"), "a \\u{1b}[31mb\\r\\u{9b}");
    }
}
