//! A batch of messages as a peer sends it. Called by libFuzzer and by `tests/fuzz_targets.rs`.

use prost::Message as _;
use proto::v1::{Batch, Envelope};
use system::wire::{expand, from_wire, to_wire};

/// Bytes are a batch or are refused, and each message of the batch is refused or survives being sent on.
pub(crate) fn target(bytes: &[u8]) {
    let Ok(mut batch) = Batch::decode(bytes) else { return };
    expand(&mut batch.envelopes);
    for envelope in batch.envelopes {
        let Ok(message) = from_wire(envelope) else { continue };
        let sent = to_wire(message.clone()).encode_to_vec();
        let arrived = Envelope::decode(&*sent).expect("an envelope that was encoded");
        assert_eq!(from_wire(arrived), Ok(message));
    }
}
