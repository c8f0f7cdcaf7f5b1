//! The directory that outlives mirrors: what was fetched once is never fetched again.

use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::pool::Pool;

/// Where everything is kept unless someone says otherwise.
pub const DEFAULT_CACHE_DIR: &str = "/var/cache/ondol";

/// Shared by all mirrors of the machine, in whatever process.
#[derive(Debug, Clone)]
pub struct Cache {
    dir: PathBuf,
    pool: Pool,
}

impl Cache {
    /// Made if it is not there.
    pub fn open(dir: &Path) -> Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            pool: Pool::open(dir)?,
        })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn pool(&self) -> &Pool {
        &self.pool
    }
}
