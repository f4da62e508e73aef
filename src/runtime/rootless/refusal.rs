//! Why a host lets its ordinary users have no user namespaces, and what changes that.

use std::fs;
use std::io;
use std::path::Path;

/// A setting of the kernel that forbids them with this value, and what allows them.
struct Setting {
    name: &'static str,
    value: &'static str,
    cure: &'static str,
}

const SETTINGS: [Setting; 3] = [
    Setting { name: "user.max_user_namespaces", value: "0", cure: "`sysctl user.max_user_namespaces=10000`" },
    // Of Debian's kernels.
    Setting {
        name: "kernel.unprivileged_userns_clone",
        value: "0",
        cure: "`sysctl kernel.unprivileged_userns_clone=1`",
    },
    // Of Ubuntu's.
    Setting {
        name: "kernel.apparmor_restrict_unprivileged_userns",
        value: "1",
        cure: "a profile in /etc/apparmor.d that gives this program `userns,`, or \
               `sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
    },
];

/// What the kernel's refusal comes from, and what root can do about it.
pub struct Refusal {
    pub reason: String,
    pub cure: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n  help: as root: {}", self.reason, self.cure)
    }
}

impl Refusal {
    pub fn of(error: &io::Error) -> Self {
        let kernel = |name: &str| fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/"))).ok();
        let (cause, cure) = cause(kernel).unwrap_or_else(|| match error.raw_os_error() {
            Some(libc::EINVAL) => ("this kernel was built without".to_owned(), "a kernel with CONFIG_USER_NS"),
            Some(libc::ENOSPC) => {
                let cause = "there are as many as user.max_user_namespaces allows, or they are nested too deep";
                (cause.to_owned(), "raise user.max_user_namespaces")
            }
            _ => {
                let cause = "a rule of the container, or the chroot, that this runs in forbids it";
                (cause.to_owned(), "run that with its filter of system calls off, or `stack` outside of it")
            }
        });
        Self { reason: format!("{error}: {cause}"), cure }
    }
}

/// The setting that forbids it, and the cure; `kernel` reads one by its name.
fn cause(kernel: impl Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    let forbids = |one: &&Setting| kernel(one.name).is_some_and(|value| value.trim() == one.value);
    let found = SETTINGS.iter().find(forbids)?;
    Some((format!("{} is {}", found.name, found.value), found.cure))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_that_forbids_is_named_with_its_cure() {
        let only = |which: &'static str, value: &'static str| {
            cause(move |name| Some(if name == which { value } else { "7" }.to_owned())).map(|(text, _)| text)
        };
        assert_eq!(only("user.max_user_namespaces", "0\n").as_deref(), Some("user.max_user_namespaces is 0"));
        assert!(only("kernel.unprivileged_userns_clone", "0").is_some());
        assert!(only("kernel.apparmor_restrict_unprivileged_userns", "1").is_some());
        assert_eq!(only("kernel.apparmor_restrict_unprivileged_userns", "0"), None);
        assert_eq!(cause(|_| None), None);
    }
}
