//! Profiles as docker reads them (`--security-opt seccomp=FILE`): a specification's words, and which of them hold for
//! which machine, kernel and capabilities. What a profile says of other machines is left out.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompBuilder, LinuxSeccompFilterFlag,
    LinuxSyscallBuilder,
};
use serde::Deserialize;

/// This program's machine in the profile's words for architectures, and in those of its conditions.
const OWN: (Arch, &str) = (Arch::ScmpArchX86_64, "amd64");

/// A profile as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Text")]
pub struct Written(Text);

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Text {
    default_action: LinuxSeccompAction,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<Machine>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    #[serde(default)]
    syscalls: Option<Vec<Calls>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Machine {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Entry")]
struct Calls(Entry);

/// Some calls, their answer, and when that counts.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: LinuxSeccompAction,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<LinuxSeccompArg>>,
    #[serde(default)]
    includes: Option<When>,
    #[serde(default)]
    excludes: Option<When>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct When {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<Kernel>,
}

/// `4.8`: as much of a kernel's version as counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Kernel(u32, u32);

impl Kernel {
    /// From a release, such as `6.1.0-13-amd64`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Self(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }
}

impl TryFrom<String> for Kernel {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no kernel's version; expected one such as 4.8"))
    }
}

impl TryFrom<Entry> for Calls {
    type Error = &'static str;

    fn try_from(entry: Entry) -> Result<Self, Self::Error> {
        match (&entry.name, &entry.names) {
            (Some(_), Some(names)) if !names.is_empty() => Err("`name` and `names` exclude each other"),
            (None, None) => Err("calls without a name"),
            _ if entry.action == LinuxSeccompAction::ScmpActNotify => Err("SCMP_ACT_NOTIFY: there is nobody to ask"),
            _ => Ok(Self(entry)),
        }
    }
}

impl TryFrom<Text> for Written {
    type Error = &'static str;

    fn try_from(text: Text) -> Result<Self, Self::Error> {
        let is_listed = text.architectures.as_ref().is_some_and(|list| !list.is_empty());
        match is_listed && text.arch_map.as_ref().is_some_and(|map| !map.is_empty()) {
            true => Err("`architectures` and `archMap` exclude each other"),
            false => Ok(Self(text)),
        }
    }
}

impl Written {
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        serde_json::from_str(text).map_err(|error| {
            let whole = error.to_string();
            // The place is told apart from the reason.
            let reason = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(reason, _)| reason).to_owned();
            (error.line(), reason)
        })
    }

    /// The filter of a container with these capabilities under this kernel.
    ///
    /// # Errors
    /// Where it is none that this engine can make.
    pub fn resolve(&self, capabilities: &BTreeSet<String>, kernel: Kernel) -> Result<LinuxSeccomp, String> {
        let Text { default_action, default_errno_ret, flags, .. } = &self.0;
        let calls = self.0.syscalls.iter().flatten().map(|calls| &calls.0);
        let calls = calls.filter(|entry| entry.counts(capabilities, kernel)).map(|entry| {
            let names = entry.name.iter().chain(entry.names.iter().flatten()).cloned().collect::<Vec<_>>();
            let mut call = LinuxSyscallBuilder::default().names(names).action(entry.action);
            if let Some(errno) = entry.errno_ret {
                call = call.errno_ret(errno);
            }
            if let Some(args) = &entry.args {
                call = call.args(args.clone());
            }
            call.build().map_err(|error| error.to_string())
        });
        let mut filter = LinuxSeccompBuilder::default()
            .default_action(*default_action)
            .architectures(self.architectures())
            .syscalls(calls.collect::<Result<Vec<_>, _>>()?);
        if let Some(errno) = default_errno_ret {
            filter = filter.default_errno_ret(*errno);
        }
        if let Some(flags) = flags {
            filter = filter.flags(flags.clone());
        }
        let filter = filter.build().map_err(|error| error.to_string())?;
        super::Profile::of(&filter)?;
        Ok(filter)
    }

    fn architectures(&self) -> Vec<Arch> {
        let mut all: Vec<Arch> = self.0.architectures.iter().flatten().copied().collect();
        for machine in self.0.arch_map.iter().flatten().filter(|machine| machine.architecture == OWN.0) {
            all.push(machine.architecture);
            all.extend(machine.sub_architectures.iter().flatten());
        }
        all
    }
}

impl Entry {
    fn counts(&self, capabilities: &BTreeSet<String>, kernel: Kernel) -> bool {
        let has = |name: &String| capabilities.contains(name);
        let is_own = |list: &Vec<String>| list.iter().any(|arch| arch == OWN.1);
        let (none, all) = (When::default(), When::default());
        let (includes, excludes) = (self.includes.as_ref().unwrap_or(&all), self.excludes.as_ref().unwrap_or(&none));
        let included = includes.caps.iter().flatten().all(has)
            && includes.arches.as_ref().is_none_or(|list| list.is_empty() || is_own(list))
            && includes.min_kernel.is_none_or(|least| kernel >= least);
        let excluded = excludes.caps.iter().flatten().any(has)
            || excludes.arches.as_ref().is_some_and(is_own)
            || excludes.min_kernel.is_some_and(|least| kernel >= least);
        included && !excluded
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn resolved(profile: &Value, capabilities: &[&str], kernel: &str) -> Value {
        let capabilities = capabilities.iter().map(|name| (*name).to_owned()).collect();
        let written = Written::parse(&profile.to_string()).unwrap();
        serde_json::to_value(written.resolve(&capabilities, Kernel::parse(kernel).unwrap()).unwrap()).unwrap()
    }

    #[test]
    fn what_holds_for_this_machine_kernel_and_these_capabilities_is_kept() {
        let rule = |name: &str, more: Value| {
            let mut rule = json!({"names": [name], "action": "SCMP_ACT_ALLOW"});
            rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            rule
        };
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "comment": "said to nobody",
            "archMap": [
                {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
                {"architecture": "SCMP_ARCH_S390X", "subArchitectures": null},
            ],
            "syscalls": [
                {"name": "read", "action": "SCMP_ACT_ALLOW"},
                rule("mount", json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule("ptrace", json!({"includes": {"minKernel": "4.8"}})),
                rule("arch_prctl", json!({"includes": {"arches": ["amd64", "x32"]}})),
                rule("s390_guarded_storage", json!({"includes": {"arches": ["s390"]}})),
                rule("clone3", json!({"excludes": {"caps": ["CAP_SYS_ADMIN"]}})),
                rule("swapcontext", json!({"excludes": {"arches": ["amd64"]}})),
                rule("bpf", json!({"excludes": {"minKernel": "6.2"}, "includes": {}})),
                rule("clone", json!({"args": [{"index": 0, "value": 2_114_060_288_u64, "op": "SCMP_CMP_MASKED_EQ"}]})),
            ],
        });
        let names = |capabilities: &[&str], kernel: &str| {
            let found = resolved(&profile, capabilities, kernel);
            let calls = found["syscalls"].as_array().unwrap().iter().map(|call| call["names"][0].as_str().unwrap());
            calls.map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(&[], "6.1.0-13-amd64"), "read ptrace arch_prctl clone3 bpf clone");
        assert_eq!(names(&["CAP_SYS_ADMIN"], "6.10.1"), "read mount ptrace arch_prctl clone");
        assert_eq!(names(&[], "4.4"), "read arch_prctl clone3 bpf clone");
        let found = resolved(&profile, &[], "6.1");
        assert_eq!(found["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"]));
        assert_eq!(found["defaultErrnoRet"], 38);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let head = "{\"defaultAction\": \"SCMP_ACT_ALLOW\",\n\"syscalls\": [\n";
        for (rule, line, reason) in [
            ("{\"names\": [\"read\"], \"action\": \"SCMP_ACT_NO\"}", 3, "unknown variant `SCMP_ACT_NO`"),
            ("{\"action\": \"SCMP_ACT_ALLOW\"}", 3, "calls without a name"),
            ("\n{\"name\": \"a\", \"names\": [\"b\"], \"action\": \"SCMP_ACT_ALLOW\"}", 4, "exclude each other"),
            ("{\"name\": \"a\", \"action\": \"SCMP_ACT_NOTIFY\"}", 3, "nobody to ask"),
            ("{\"name\": \"a\", \"action\": \"SCMP_ACT_ALLOW\",\n\"includes\": {\"minKernel\": \"new\"}}", 4, "4.8"),
            ("{\"name\"", 3, "expected"),
        ] {
            let (at, told) = Written::parse(&format!("{head}{rule}]}}")).unwrap_err();
            assert!(at == line && told.contains(reason), "{rule}: {at}: {told}");
        }
    }
}
