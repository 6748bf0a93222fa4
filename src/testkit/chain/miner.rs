//! Makes blocks with real proof of work; on regtest every second nonce will do.

use bitcoin::block::{Header, Version};
use bitcoin::hashes::Hash;
use bitcoin::script::{Builder, PushBytesBuf};
use bitcoin::{
    Amount, Block, CompactTarget, OutPoint, ScriptBuf, Sequence, Transaction, TxIn, TxMerkleNode,
    TxOut, Witness, absolute, transaction,
};

use super::state::{ChainState, REGTEST_BITS, height_prefix};

/// The only value in use of the coinbase's witness (BIP141).
const WITNESS_RESERVED: [u8; 32] = [0; 32];

/// Makes the next block of `chain` with these transactions, which pay `fees`; subsidy and fees go
/// to `payout`. The time is `now_secs` unless the rules or the order of blocks ask for a later one.
pub(super) fn make_block(
    chain: &ChainState,
    transactions: Vec<Transaction>,
    fees: Amount,
    payout: ScriptBuf,
    now_secs: u32,
) -> Block {
    let position = chain.next();
    let reward = ChainState::subsidy(position.height)
        .checked_add(fees)
        .unwrap_or(Amount::ZERO);
    let mut txdata = vec![coinbase(
        position.height,
        chain.extra_nonce(),
        reward,
        payout,
    )];
    txdata.extend(transactions);
    let after_median = position.median_time_past_secs.saturating_add(1);
    let previous_time = chain.tip_header().map_or(0, |header| header.time);
    let mut block = Block {
        header: Header {
            version: Version::from_consensus(0x2000_0000),
            prev_blockhash: chain.tip_hash(),
            merkle_root: TxMerkleNode::all_zeros(),
            time: now_secs.max(after_median).max(previous_time),
            bits: CompactTarget::from_consensus(REGTEST_BITS),
            nonce: 0,
        },
        txdata,
    };
    commit_to_witnesses(&mut block);
    if let Some(root) = block.compute_merkle_root() {
        block.header.merkle_root = root;
    }
    while block.header.validate_pow(block.header.target()).is_err() {
        // Half of all nonces will do: the counter does not get near its end.
        block.header.nonce = block.header.nonce.wrapping_add(1);
    }
    block
}

fn coinbase(height: u32, extra_nonce: u64, reward: Amount, payout: ScriptBuf) -> Transaction {
    let mut script = height_prefix(height);
    let nonce = PushBytesBuf::from(extra_nonce.to_le_bytes());
    script.extend(Builder::new().push_slice(nonce).into_script().into_bytes());
    Transaction {
        version: transaction::Version::TWO,
        lock_time: absolute::LockTime::ZERO,
        input: vec![TxIn {
            previous_output: OutPoint::null(),
            script_sig: ScriptBuf::from_bytes(script),
            sequence: Sequence::MAX,
            witness: Witness::from_slice(&[WITNESS_RESERVED]),
        }],
        output: vec![TxOut {
            value: reward,
            script_pubkey: payout,
        }],
    }
}

/// Adds the output that commits to all witnesses (BIP141).
fn commit_to_witnesses(block: &mut Block) {
    let Some(root) = block.witness_root() else {
        return;
    };
    let commitment = Block::compute_witness_commitment(&root, &WITNESS_RESERVED);
    let mut payload = vec![0xaa, 0x21, 0xa9, 0xed];
    payload.extend(commitment.to_byte_array());
    let script = PushBytesBuf::try_from(payload)
        .map(ScriptBuf::new_op_return)
        .unwrap_or_default();
    if let Some(coinbase) = block.txdata.first_mut() {
        coinbase.output.push(TxOut {
            value: Amount::ZERO,
            script_pubkey: script,
        });
    }
}
