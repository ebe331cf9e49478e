//! The index: sled, one packed value for each bucket of keys. It may be behind the journal and says
//! how far it is; it may be lost and is then made anew.

use std::path::Path;

use crate::bucket::{self, PREFIX, Records, bucket_of};
use crate::change::{Change, ScopeNumber};
use crate::journal::Position;
use crate::secret::Key;

/// Version of what is in it; another one is made anew from the journal.
const FORMAT: &[u8] = b"1";
/// Buckets written in one go.
const BUCKETS_AT_ONCE: usize = 512;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IndexError {
    #[error("{0}")]
    Sled(#[from] sled::Error),
    #[error("{0}")]
    Damaged(&'static str),
}

pub(crate) struct Index {
    database: sled::Db,
    buckets: sled::Tree,
    /// Names of scopes by number.
    scopes: sled::Tree,
    about: sled::Tree,
}

impl Index {
    /// Opens it, or makes an empty one.
    pub(crate) fn open(folder: &Path, cache: u64) -> Result<Self, IndexError> {
        let database = sled::Config::new()
            .path(folder)
            .cache_capacity(cache)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput)
            .open()?;
        let index = Self {
            buckets: database.open_tree("buckets")?,
            scopes: database.open_tree("scopes")?,
            about: database.open_tree("about")?,
            database,
        };
        match index.about.get("format")? {
            None if index.buckets.is_empty() => {
                index.about.insert("format", FORMAT)?;
            }
            Some(format) if format == FORMAT => {}
            _ => return Err(IndexError::Damaged("it has another format")),
        }
        Ok(index)
    }

    /// How far in the journal it is.
    pub(crate) fn position(&self) -> Result<Position, IndexError> {
        let Some(value) = self.about.get("position")? else { return Ok(Position::default()) };
        let octets: [u8; 16] = value[..].try_into().map_err(|_| IndexError::Damaged("its position is unreadable"))?;
        let (segment, offset) = octets.split_at(8);
        let number = |octets: &[u8]| octets.try_into().map_or(0, u64::from_be_bytes);
        Ok(Position { segment: number(segment), offset: number(offset) })
    }

    /// Whether its keys were made with another secret.
    pub(crate) fn is_of_another(&self, secret_check: [u8; 8]) -> Result<bool, IndexError> {
        Ok(self.about.get("secret")?.is_some_and(|known| known[..] != secret_check))
    }

    /// Its keys are made with that secret.
    pub(crate) fn belongs_to(&self, secret_check: [u8; 8]) -> Result<(), IndexError> {
        self.about.insert("secret", &secret_check)?;
        Ok(())
    }

    /// Entries of one key.
    pub(crate) fn records(&self, key: Key) -> Result<Records, IndexError> {
        let value = self.buckets.get(bucket_of(key))?;
        Ok(value.map(|value| bucket::of_key(&value, key)).unwrap_or_default())
    }

    /// Entries of many keys, which are sorted: each bucket is read once.
    pub(crate) fn records_of(&self, keys: &[Key], mut found: impl FnMut(Key, Records)) -> Result<(), IndexError> {
        for same in keys.chunk_by(|a, b| bucket_of(*a) == bucket_of(*b)) {
            let Some(first) = same.first() else { continue };
            let value = self.buckets.get(bucket_of(*first))?;
            for key in same {
                found(*key, value.as_ref().map(|value| bucket::of_key(value, *key)).unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Takes changes in, sorted by place, and is on the disk up to `position` on return.
    pub(crate) fn apply(
        &self,
        changes: &[Change],
        scopes: &[(ScopeNumber, String)],
        position: Position,
    ) -> Result<(), IndexError> {
        for (number, name) in scopes {
            self.scopes.insert(number.0.to_be_bytes(), name.as_bytes())?;
        }
        let mut batch = sled::Batch::default();
        let mut waiting = 0;
        for same in changes.chunk_by(|a, b| bucket_of(a.place.key) == bucket_of(b.place.key)) {
            let Some(first) = same.first() else { continue };
            let name = bucket_of(first.place.key);
            let old = self.buckets.get(name)?;
            let new = bucket::merge(name, old.as_deref().unwrap_or_default(), same);
            if new.is_empty() {
                batch.remove(&name)
            } else {
                batch.insert(&name, new)
            }
            waiting += 1;
            if waiting == BUCKETS_AT_ONCE {
                self.buckets.apply_batch(std::mem::take(&mut batch))?;
                waiting = 0;
            }
        }
        self.buckets.apply_batch(batch)?;
        // What the position promises is on the disk before the position is.
        self.database.flush()?;
        let octets = [position.segment.to_be_bytes(), position.offset.to_be_bytes()].concat();
        self.about.insert("position", octets)?;
        self.database.flush()?;
        Ok(())
    }

    /// Every entry, and a check that each value is one of ours.
    pub(crate) fn scan(&self, mut found: impl FnMut(Change)) -> Result<(), IndexError> {
        for entry in &self.buckets {
            let (name, value) = entry?;
            let name: [u8; PREFIX] = name[..].try_into().map_err(|_| IndexError::Damaged("a bucket has no name"))?;
            if !bucket::is_sound(name, &value) {
                return Err(IndexError::Damaged("a bucket holds what it cannot"));
            }
            bucket::all(name, &value).for_each(&mut found);
        }
        Ok(())
    }

    /// Names of scopes by number.
    pub(crate) fn scopes(&self) -> Result<Vec<(ScopeNumber, String)>, IndexError> {
        self.scopes
            .iter()
            .map(|entry| {
                let (number, name) = entry?;
                let number: [u8; 4] =
                    number[..].try_into().map_err(|_| IndexError::Damaged("a scope has no number"))?;
                let name = String::from_utf8(name.to_vec()).map_err(|_| IndexError::Damaged("a scope has no name"))?;
                Ok((ScopeNumber(u32::from_be_bytes(number)), name))
            })
            .collect()
    }

    /// Octets on the disk.
    pub(crate) fn size(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0)
    }
}
