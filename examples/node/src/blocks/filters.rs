//! The compact filters of a chain of blocks: basic filters (BIP 158), their hashes and their headers
//! (BIP 157). Plain data without a thread.

use std::collections::HashMap;

use bitcoin::{
    Block, OutPoint, ScriptBuf,
    bip158::{self, BlockFilter, FilterHash, FilterHeader},
    hashes::Hash,
};

use super::Problem;

/// The filters of a chain by height.
#[derive(Default)]
pub(super) struct Filters(Vec<Filter>);

struct Filter {
    content: Box<[u8]>,
    header: FilterHeader,
}

impl Filters {
    /// Adds the filter of the next block. `outputs` has the outputs that the block spends.
    ///
    /// # Errors
    ///
    /// [`Problem::MissingOutput`], if `outputs` lacks one.
    pub(super) fn add(&mut self, block: &Block, outputs: &Outputs) -> Result<(), Problem> {
        let filter = BlockFilter::new_script_filter(block, |point| {
            let script = outputs.0.get(point).ok_or(bip158::Error::UtxoMissing(*point))?;
            Ok(script.as_script())
        });
        let filter = filter.map_err(|error| match error {
            bip158::Error::UtxoMissing(point) => Problem::MissingOutput(point),
            // Writing to a vector does not fail.
            _ => Problem::Malformed,
        })?;
        let previous = self.0.last().map_or(FilterHeader::all_zeros(), |last| last.header);
        let header = filter.filter_header(&previous);
        self.0.push(Filter { content: filter.content.into(), header });
        Ok(())
    }

    pub(super) fn content(&self, height: usize) -> Option<&[u8]> {
        self.0.get(height).map(|filter| &*filter.content)
    }

    pub(super) fn hash(&self, height: usize) -> Option<FilterHash> {
        self.content(height).map(FilterHash::hash)
    }

    pub(super) fn header(&self, height: usize) -> Option<FilterHeader> {
        self.0.get(height).map(|filter| filter.header)
    }
}

/// The scripts of the unspent outputs.
#[derive(Default)]
pub(super) struct Outputs(HashMap<OutPoint, ScriptBuf>);

impl Outputs {
    /// Adds the outputs of a block, which transactions of the same block may spend.
    pub(super) fn add_all(&mut self, block: &Block) {
        for transaction in &block.txdata {
            let txid = transaction.compute_txid();
            for (vout, output) in (0..).zip(&transaction.output) {
                // No transaction can spend these outputs.
                if !output.script_pubkey.is_op_return() {
                    self.0.insert(OutPoint { txid, vout }, output.script_pubkey.clone());
                }
            }
        }
    }

    /// Removes the outputs that a block spends.
    ///
    /// # Errors
    ///
    /// [`Problem::MissingOutput`], if one does not exist, for example because it is spent twice.
    pub(super) fn spend_all(&mut self, block: &Block) -> Result<(), Problem> {
        let inputs = block.txdata.iter().skip(1).flat_map(|transaction| &transaction.input);
        for point in inputs.map(|input| input.previous_output) {
            self.0.remove(&point).ok_or(Problem::MissingOutput(point))?;
        }
        Ok(())
    }
}
