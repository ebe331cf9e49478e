//! What this machine says about itself, for seeds that are meant for one machine.

use std::fs;
use std::path::Path;

use postkeep_seed::MachineFacts;

/// Reads what the firmware and the network cards tell, below `sys`. What cannot be read is not told.
pub(crate) fn of_this_machine(sys: &Path) -> MachineFacts {
    let told = |name: &str| {
        let text = fs::read_to_string(sys.join("class/dmi/id").join(name)).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    };
    let cards = fs::read_dir(sys.join("class/net")).into_iter().flatten().flatten();
    MachineFacts {
        serial: told("product_serial"),
        uuid: told("product_uuid"),
        macs: cards
            .filter_map(|card| fs::read_to_string(card.path().join("address")).ok()?.trim().parse().ok())
            .collect(),
    }
}
