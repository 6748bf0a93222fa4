//! What every source does alike when it looks.

use bitcoin::Txid;

use super::{BlockId, ChainError, ChainSource, SeenTransaction, View};

/// Fetches what a look found, each with where it is.
pub(super) async fn fetch(
    source: &dyn ChainSource,
    found: impl IntoIterator<Item = (Txid, Option<BlockId>)> + Send,
) -> Result<Vec<SeenTransaction>, ChainError> {
    let found: Vec<_> = found.into_iter().collect();
    let mut seen = Vec::new();
    for (txid, block) in found {
        // Gone between two questions: the next look tells.
        let transaction = source.transaction(txid, None).await?;
        let transaction = transaction.ok_or(ChainError::Moved)?;
        seen.push(SeenTransaction { transaction, block });
    }
    Ok(seen)
}

/// A view, if the tip is still the one that it was begun with.
pub(super) async fn of_one_tip(source: &dyn ChainSource, view: View) -> Result<View, ChainError> {
    if source.tip().await? == view.tip {
        Ok(view)
    } else {
        Err(ChainError::Moved)
    }
}
