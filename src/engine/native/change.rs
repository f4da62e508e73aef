//! What changing a field costs on this host: a table, so that planning stays pure.

use crate::reconcile::engine::Change;
use crate::reconcile::resource::Kind;

/// What changing this field of this kind of resource costs here.
pub fn change(kind: Kind, field: &str) -> Change {
    match kind {
        Kind::Image => Change::InPlace,
        Kind::Network => network(field),
        Kind::Volume => volume(field),
        Kind::Container => container(field),
    }
}

fn first(field: &str) -> &str {
    field.split(['.', '[']).next().unwrap_or(field)
}

/// Labels are only written down; everything else is the link's own.
fn network(field: &str) -> Change {
    if first(field) == "labels" { Change::InPlace } else { Change::Replace }
}

/// The data lives where the driver and its options say.
fn volume(field: &str) -> Change {
    match first(field) {
        "labels" | "protect" => Change::InPlace,
        _ => Change::LosesData,
    }
}

/// What the kernel lets change under a running container, or what only the supervisor looks at.
fn container(field: &str) -> Change {
    match first(field) {
        "labels" | "annotations" | "restart" | "healthcheck" | "on_unhealthy" | "stop_signal" | "stop_grace_ms" => {
            Change::InPlace
        }
        // Swap below the present use, and a memory limit that is taken away, are fine for the kernel too.
        "resources" => Change::InPlace,
        _ => Change::Replace,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_kernel_allows_is_changed_in_place() {
        for (kind, field, expected) in [
            (Kind::Container, "resources.memory", Change::InPlace),
            (Kind::Container, "labels.a", Change::InPlace),
            (Kind::Container, "restart", Change::InPlace),
            (Kind::Container, "image", Change::Replace),
            (Kind::Container, "environment.A", Change::Replace),
            (Kind::Volume, "driver_opts.size", Change::LosesData),
            (Kind::Volume, "protect", Change::InPlace),
            (Kind::Network, "subnet", Change::Replace),
        ] {
            assert_eq!(change(kind, field), expected, "{kind} {field}");
        }
    }
}
