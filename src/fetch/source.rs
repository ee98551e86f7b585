//! The object store as a source of pages. Both are on a floor below; here they meet.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::cache::{ReadError, Source};
use crate::objstore::{ObjectStore, StoreError};

/// An object store that pages are read from.
#[derive(Debug, Clone)]
pub struct StoreSource(Arc<dyn ObjectStore>);

impl StoreSource {
    /// Reads from `store`.
    pub fn new(store: Arc<dyn ObjectStore>) -> Self {
        Self(store)
    }
}

fn read_error(error: &StoreError) -> ReadError {
    ReadError::new(error.kind(), &error.to_string())
}

#[async_trait]
impl Source for StoreSource {
    async fn get_range(&self, object: &str, range: Range<u64>) -> Result<Bytes, ReadError> {
        self.0.get_range(object, range).await.map_err(|error| read_error(&error))
    }

    async fn size(&self, object: &str) -> Result<u64, ReadError> {
        self.0.size(object).await.map_err(|error| read_error(&error))
    }

    fn is_local(&self) -> bool {
        self.0.is_local()
    }
}
