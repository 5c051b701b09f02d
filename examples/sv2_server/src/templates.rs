//! The templates that the server pushes. The templates are complete, but made up. A real server
//! gets its templates from a node.

use std::time::{SystemTime, UNIX_EPOCH};

use binary_sv2::{B064K, B0255, Seq0255, U256};
use bitcoin::script;
use template_distribution_sv2::{NewTemplate, SetNewPrevHash};

/// The block subsidy until 2028, in satoshis.
const COINBASE_VALUE: u64 = 312_500_000;
/// The easiest difficulty, which regtest uses.
const N_BITS: u32 = 0x207f_ffff;
/// The target that `N_BITS` encodes.
const TARGET: [u8; 32] = {
    let mut target = [0; 32];
    (target[29], target[30], target[31]) = (0xff, 0xff, 0x7f);
    target
};

/// A template for one block.
#[derive(Debug)]
pub(crate) struct Template {
    pub(crate) id: u64,
    /// The height in the form that BIP 34 requires in a coinbase.
    coinbase_prefix: Vec<u8>,
    prev_hash: [u8; 32],
    timestamp: u32,
}

impl Template {
    pub(crate) fn new(id: u64) -> Template {
        let mut prev_hash = [0; 32];
        prev_hash[..8].copy_from_slice(&id.to_le_bytes());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        // Each template is a block higher than the one before.
        let height = u32::try_from(id).unwrap_or(u32::MAX);
        let coinbase_prefix = script::Builder::new().push_int(height.into()).into_bytes();
        Template { id, coinbase_prefix, prev_hash, timestamp }
    }

    pub(crate) fn new_template(&self) -> Result<NewTemplate<'_>, binary_sv2::Error> {
        Ok(NewTemplate {
            template_id: self.id,
            // `SetNewPrevHash` follows.
            future_template: true,
            version: 0x2000_0000,
            coinbase_tx_version: 2,
            coinbase_prefix: B0255::try_from(&self.coinbase_prefix[..])?,
            coinbase_tx_input_sequence: u32::MAX,
            coinbase_tx_value_remaining: COINBASE_VALUE,
            coinbase_tx_outputs_count: 0,
            coinbase_tx_outputs: B064K::try_from(&[][..])?,
            coinbase_tx_locktime: 0,
            merkle_path: Seq0255::new(Vec::new())?,
        })
    }

    pub(crate) fn set_new_prev_hash(&self) -> SetNewPrevHash<'_> {
        SetNewPrevHash {
            template_id: self.id,
            prev_hash: U256::from(&self.prev_hash),
            header_timestamp: self.timestamp,
            n_bits: N_BITS,
            target: U256::from(&TARGET),
        }
    }
}
