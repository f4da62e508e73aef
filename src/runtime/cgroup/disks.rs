//! Limits of block devices. Weights are of BFQ where the kernel knows no other scheduler by proportion.

use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDevice};

use super::limits::{Files, Group};

type Throttles<'a> = [(&'static str, &'static str, &'a Option<Vec<LinuxThrottleDevice>>); 4];

/// Each with its word in version 2 and its file in version 1.
fn throttles(io: &LinuxBlockIo) -> Throttles<'_> {
    [
        ("rbps", "blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("wbps", "blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("riops", "blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        ("wiops", "blkio.throttle.write_iops_device", io.throttle_write_iops_device()),
    ]
}

/// Files and values in version 2's words.
pub fn v2(io: &LinuxBlockIo, group: Group<'_>) -> Files {
    let has_bfq = group("io.bfq.weight").is_some();
    let name = if has_bfq { "io.bfq.weight" } else { "io.weight" };
    let weight = |weight: u16| if has_bfq { weight } else { of_all(weight) };
    let mut files = weights(io, name, name, &weight);
    for (word, _, devices) in throttles(io) {
        for one in devices.iter().flatten() {
            let rate = if one.rate() == 0 { "max".to_owned() } else { one.rate().to_string() };
            files.push(("io.max".to_owned(), format!("{}:{} {word}={rate}", one.major(), one.minor())));
        }
    }
    files
}

/// 10..1000 as 1..10000, as runc has it.
fn of_all(weight: u16) -> u16 {
    1 + ((u32::from(weight.clamp(10, 1000)) - 10) * 9999 / 990) as u16
}

/// Files and values in version 1's words.
pub fn v1(io: &LinuxBlockIo, group: Group<'_>) -> Files {
    let names = match group("blkio.weight") {
        Some(_) => ["blkio.weight", "blkio.weight_device"],
        None => ["blkio.bfq.weight", "blkio.bfq.weight_device"],
    };
    let mut files = weights(io, names[0], names[1], &|weight| weight);
    for (_, file, devices) in throttles(io) {
        let line = |one: &LinuxThrottleDevice| format!("{}:{} {}", one.major(), one.minor(), one.rate());
        files.extend(devices.iter().flatten().map(|one| (file.to_owned(), line(one))));
    }
    files
}

fn weights(io: &LinuxBlockIo, of_all: &str, of_one: &str, weight: &dyn Fn(u16) -> u16) -> Files {
    let mut files = Files::new();
    let all = io.weight().filter(|given| *given > 0);
    files.extend(all.map(|given| (of_all.to_owned(), weight(given).to_string())));
    for one in io.weight_device().iter().flatten() {
        let given = one.weight().filter(|given| *given > 0);
        let line = given.map(|given| format!("{}:{} {}", one.major(), one.minor(), weight(given)));
        files.extend(line.map(|line| (of_one.to_owned(), line)));
    }
    files
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn weights_and_rates_in_both_versions_words() {
        let io: LinuxBlockIo = serde_json::from_value(json!({"weight": 500,
            "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
            "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1024}],
            "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 0}]}))
        .unwrap();
        let text = |files: Files| {
            files.into_iter().map(|(file, value)| format!("{file}={value}")).collect::<Vec<_>>().join(", ")
        };
        let rates = "io.max=8:0 rbps=1024, io.max=8:16 wiops=max";
        let bfq = |name: &str| name.contains("bfq").then(String::new);
        let expected = format!("io.bfq.weight=500, io.bfq.weight=8:0 1000, {rates}");
        assert_eq!(text(v2(&io, &bfq)), expected);
        assert_eq!(text(v2(&io, &|_| None)), format!("io.weight=4950, io.weight=8:0 10000, {rates}"));
        let rates = "blkio.throttle.read_bps_device=8:0 1024, blkio.throttle.write_iops_device=8:16 0";
        let expected = format!("blkio.bfq.weight=500, blkio.bfq.weight_device=8:0 1000, {rates}");
        assert_eq!(text(v1(&io, &bfq)), expected);
        let expected = format!("blkio.weight=500, blkio.weight_device=8:0 1000, {rates}");
        assert_eq!(text(v1(&io, &|_| Some(String::new()))), expected);
    }
}
