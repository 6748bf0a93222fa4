//! Whatever a reader brings back from a chip is read or refused: no panic. The reader's random
//! number is always the same, so that a recorded run (see the corpus) is taken to its end and
//! what the fuzzer makes of it gets as far.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use flashkit::cards::ProgrammingKeys;
use flashkit::cards::boltcard::{IssuerKey, KeyDerivation};
use flashkit::cards::programming::{
    CardPayload, CardProgrammer, CardTransport, ChipError, ChipKeys, TransportError,
};
use flashkit::ports::{Entropy, EntropyError};

/// Answers one after the other, each behind a byte with its length.
struct Recorded {
    answers: Vec<Vec<u8>>,
    next: AtomicUsize,
}

#[async_trait]
impl CardTransport for Recorded {
    async fn transceive(&self, _: Vec<u8>) -> Result<Vec<u8>, TransportError> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        self.answers.get(next).cloned().ok_or(TransportError::Lost)
    }
}

struct Constant;

impl Entropy for Constant {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        bytes.fill(0x13);
        Ok(())
    }
}

const UID: [u8; 7] = [0x04, 0xa3, 0x94, 0x93, 0xcc, 0x86, 0x80];

fn keys(version: u32) -> ProgrammingKeys {
    let keys = IssuerKey::new([0x42; 16]).card_keys(&UID, version, &KeyDerivation::Standard);
    ProgrammingKeys {
        lnurlw: "lnurlw://pay.example.com/boltcard".to_owned(),
        version,
        k0: keys.k0.to_hex(),
        k1: keys.k1.to_hex(),
        k2: keys.k2.to_hex(),
        k3: keys.k3.to_hex(),
        k4: keys.k4.to_hex(),
    }
}

pub fn run(data: &[u8]) -> bool {
    let Some((operation, mut rest)) = data.split_first() else {
        return false;
    };
    let mut answers = Vec::new();
    while let Some((length, more)) = rest.split_first() {
        let (answer, more) = more.split_at(usize::from(*length).min(more.len()));
        answers.push(answer.to_vec());
        rest = more;
    }
    let next = AtomicUsize::new(0);
    let programmer = CardProgrammer::new(Arc::new(Recorded { answers, next }), Arc::new(Constant));
    let uid = "04a39493cc8680";
    let mut attempt = pin!(async {
        let first = ChipKeys::parse(&keys(1))?;
        match operation % 4 {
            0 => drop(
                programmer
                    .program(&CardPayload::new(uid, &keys(1))?)
                    .await?,
            ),
            1 => drop(
                programmer
                    .reprogram(&[first], &CardPayload::new(uid, &keys(2))?)
                    .await?,
            ),
            2 => programmer.wipe(uid, &[first]).await?,
            _ => drop(programmer.read().await?),
        }
        Ok::<_, ChipError>(())
    });
    let context = &mut Context::from_waker(Waker::noop());
    let Poll::Ready(ended) = attempt.as_mut().poll(context) else {
        panic!("nothing here waits");
    };
    if let Err(error) = &ended {
        assert!(error.code().starts_with("card.chip_"), "{error}");
    }
    ended.is_ok()
}
