//! For which platforms this host runs programs: its own, and those that an emulator is registered for with the kernel
//! (binfmt_misc, Documentation/admin-guide/binfmt-misc.rst).

use std::fs;
use std::path::Path;

use super::Platform;

const REGISTERED: &str = "/proc/sys/fs/binfmt_misc";

/// Whether a program of this platform can be started here, in a container, too.
pub fn runs(platform: &Platform) -> bool {
    let host = Platform::host();
    let own =
        platform.architecture == host.architecture || (host.architecture == "amd64" && platform.architecture == "386");
    platform.os == "linux" && (own || is_emulated(Path::new(REGISTERED), &platform.architecture))
}

fn is_emulated(registered: &Path, architecture: &str) -> bool {
    let Some(header) = header(architecture) else { return false };
    let entries = fs::read_dir(registered).into_iter().flatten();
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    texts.into_iter().any(|text| takes(&text, &header))
}

/// The first bytes of a program of this architecture: e_ident, e_type and e_machine of elf(5).
fn header(architecture: &str) -> Option<Vec<u8>> {
    let (class, data, machine): (u8, u8, u16) = match architecture {
        "386" => (1, 1, 3),
        "arm" => (1, 1, 40),
        "amd64" => (2, 1, 62),
        "arm64" => (2, 1, 183),
        "loong64" => (2, 1, 258),
        "mips64le" => (2, 1, 8),
        "ppc64le" => (2, 1, 21),
        "riscv64" => (2, 1, 243),
        "s390x" => (2, 2, 22),
        _ => return None,
    };
    let number = |value: u16| if data == 1 { value.to_le_bytes() } else { value.to_be_bytes() };
    let mut bytes = vec![0x7f, b'E', b'L', b'F', class, data, 1];
    bytes.resize(16, 0);
    bytes.extend(number(2));
    bytes.extend(number(machine));
    Some(bytes)
}

/// Whether this entry of the kernel takes programs that begin so. Without the flag F the emulator would have to be in
/// the container.
fn takes(entry: &str, header: &[u8]) -> bool {
    let value = |key: &str| entry.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
    let fixed = value("flags:").is_some_and(|flags| flags.contains('F'));
    let offset: usize = value("offset ").and_then(|text| text.parse().ok()).unwrap_or(0);
    let Some(magic) = value("magic ").and_then(bytes) else { return false };
    let mask = value("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let at = |index: usize| header.get(offset + index).copied();
    let same = |(index, (byte, mask)): (usize, (&u8, &u8))| at(index).is_some_and(|own| own & mask == byte & mask);
    let matches = magic.iter().zip(&mask).enumerate().all(same);
    entry.lines().next() == Some("enabled") && fixed && matches
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let pair = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
    (0..hex.len()).step_by(2).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As Debian's qemu-user-binfmt registers it.
    const ARM64: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\nflags: POCF\noffset 0\nmagic \
        7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_emulator_counts_where_it_is_enabled_and_works_in_containers() {
        let arm64 = header("arm64").unwrap();
        assert!(takes(ARM64, &arm64));
        assert!(!takes(ARM64, &header("s390x").unwrap()) && !takes(ARM64, &header("amd64").unwrap()));
        assert!(!takes(&ARM64.replace("POCF", "POC"), &arm64), "it would be looked for in the container");
        assert!(!takes(&ARM64.replace("enabled", "disabled"), &arm64));
        assert!(!takes("enabled\ninterpreter /x\nflags: F\nextension .py\n", &arm64));
    }

    #[test]
    fn what_is_the_hosts_own_runs() {
        assert!(runs(&Platform::host()));
        assert!(!runs(&Platform { os: "windows".into(), ..Platform::host() }));
    }
}
