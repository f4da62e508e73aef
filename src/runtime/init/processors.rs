//! What processors tell of the host's load, which is none of a container's business.

use std::fs;
use std::path::{Path, PathBuf};

/// How often each processor of this host was throttled: the kernel has the directory only where the processor counts it.
pub fn thermal_counters() -> Vec<PathBuf> {
    thermal_counters_in(Path::new("/sys/devices/system/cpu"))
}

fn thermal_counters_in(directory: &Path) -> Vec<PathBuf> {
    let is_processor = |name: &str| name.strip_prefix("cpu").is_some_and(|rest| rest.parse::<u32>().is_ok());
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let processors = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_processor));
    let mut found: Vec<_> = processors.map(|entry| entry.path().join("thermal_throttle")).collect();
    found.retain(|path| path.exists());
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_processor_that_counts_its_heat_is_found() {
        let directory = std::env::temp_dir().join(format!("stack-cpu-{}", std::process::id()));
        for name in ["cpu0/thermal_throttle", "cpu10/thermal_throttle", "cpu2", "cpufreq/thermal_throttle"] {
            fs::create_dir_all(directory.join(name)).unwrap();
        }
        let found = ["cpu0/thermal_throttle", "cpu10/thermal_throttle"].map(|name| directory.join(name));
        assert_eq!(thermal_counters_in(&directory), found);
        fs::remove_dir_all(directory).unwrap();
    }
}
