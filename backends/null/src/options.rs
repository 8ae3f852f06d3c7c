//! What a load asked for: sizes, scripts, delays, faults.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use tokenmill_backend_abi as abi;

use crate::{Fault, invalid, vocab};

/// The `options` of a load, lines `key=value`:
///
/// | key | default | meaning |
/// |---|---|---|
/// | `vocab=N` | `vocab_size` of config.json, else 32000 | logits per row, 2..=524288 |
/// | `context=N` | `max_position_embeddings` of config.json, else 131072 | positions |
/// | `blocks=N` | from `kv_bytes`, else 4096 | KV blocks |
/// | `check=0` | 1 | skip the verification of the KV contents: O(1) per token and greedy row |
/// | `script=A,B,…` | none | the most likely token at position p is entry p mod length |
/// | `eos=ID@N` | none | token ID is the most likely one after one prefix in N, and never else |
/// | `step_us=N` | 0 | a step takes so long, one after the other |
/// | `load_fail=CODE` | none | load reports the code |
/// | `fail_step=K:CODE,…` | none | `wait` reports the code for the K-th step (6 = device lost, for good) |
/// | `lost_at=K` | none | short for `fail_step=K:6` |
/// | `dtype=`, `kv_dtype=` | | accepted, as every backend does; there are no weights |
/// | `nan_row=K:R,…` | none | the logits of row R of step K are NaN, its token is -1 |
///
/// The model directory need not exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    pub vocab: u32,
    pub context: u32,
    pub blocks: Option<u32>,
    pub check: bool,
    pub script: Vec<u32>,
    /// Token and period.
    pub eos: Option<(u32, u64)>,
    pub step: Duration,
    pub load_fail: Option<abi::Code>,
    /// Step and code.
    pub fail_step: Vec<(u64, abi::Code)>,
    /// Step and row.
    pub nan_row: Vec<(u64, u32)>,
}

impl Options {
    pub(crate) fn parse(text: &str, dir: &Path) -> Result<Self, Fault> {
        let mut options = Self {
            vocab: 32_000,
            context: 131_072,
            blocks: None,
            check: true,
            script: Vec::new(),
            eos: None,
            step: Duration::ZERO,
            load_fail: None,
            fail_step: Vec::new(),
            nan_row: Vec::new(),
        };
        options.read_config(dir)?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (key, value) =
                line.split_once('=').ok_or_else(|| invalid(format!("option {line:?} is not key=value")))?;
            options.set(key, value)?;
        }
        options.validate()?;
        Ok(options)
    }

    fn set(&mut self, key: &str, value: &str) -> Result<(), Fault> {
        let pair = |part: &str, separator| -> Result<(String, String), Fault> {
            part.split_once(separator)
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .ok_or_else(|| invalid(format!("option {key}={value}: expected A{separator}B")))
        };
        match key {
            "vocab" => self.vocab = number(key, value)?,
            "context" => self.context = number(key, value)?,
            "blocks" => self.blocks = Some(number(key, value)?),
            "dtype" | "kv_dtype" => {}
            "check" => self.check = number::<u8>(key, value)? != 0,
            "script" => {
                self.script = value.split(',').map(|token| number(key, token)).collect::<Result<_, _>>()?;
            }
            "eos" => {
                let (token, period) = pair(value, '@')?;
                self.eos = Some((number(key, &token)?, number(key, &period)?));
            }
            "step_us" => self.step = Duration::from_micros(number(key, value)?),
            "load_fail" => self.load_fail = Some(number(key, value)?),
            "lost_at" => self.fail_step.push((number(key, value)?, abi::LOST)),
            "fail_step" => {
                for part in value.split(',') {
                    let (step, code) = pair(part, ':')?;
                    self.fail_step.push((number(key, &step)?, number(key, &code)?));
                }
            }
            "nan_row" => {
                for part in value.split(',') {
                    let (step, row) = pair(part, ':')?;
                    self.nan_row.push((number(key, &step)?, number(key, &row)?));
                }
            }
            _ => return Err(invalid(format!("unknown option {key:?}"))),
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), Fault> {
        if !(2..=vocab::MAX).contains(&self.vocab) {
            return Err(invalid(format!("option vocab={}: expected 2..={}", self.vocab, vocab::MAX)));
        }
        if self.context == 0 || self.context > i32::MAX as u32 {
            return Err(invalid(format!("option context={}: expected 1..=2147483647", self.context)));
        }
        if self.blocks == Some(0) {
            return Err(invalid("option blocks=0: expected at least 1"));
        }
        let outside = |token: &&u32| **token >= self.vocab;
        if let Some(token) = self.script.iter().find(outside) {
            return Err(invalid(format!("option script: token {token} of {}", self.vocab)));
        }
        match self.eos {
            Some((token, period)) if token >= self.vocab || period == 0 => Err(invalid(format!(
                "option eos={token}@{period}: expected a token id and a period of at least 1"
            ))),
            _ => Ok(()),
        }
    }

    /// Sizes of the model that this backend stands in for, if the directory has a config.json.
    fn read_config(&mut self, dir: &Path) -> Result<(), Fault> {
        let path = dir.join("config.json");
        let Ok(bytes) = std::fs::read(&path) else { return Ok(()) };
        let config: serde_json::Value = serde_json::from_slice(&bytes)
            .map_err(|error| invalid(format!("{}: {error}", path.display())))?;
        // Multimodal models keep the sizes of their language model one level down.
        let size = |key: &str| {
            let value = config.get(key).or_else(|| config.get("text_config")?.get(key))?;
            u32::try_from(value.as_u64()?).ok()
        };
        self.vocab = size("vocab_size").unwrap_or(self.vocab);
        self.context = size("max_position_embeddings").unwrap_or(self.context);
        Ok(())
    }
}

fn number<T: FromStr>(key: &str, value: &str) -> Result<T, Fault> {
    value.trim().parse().map_err(|_| invalid(format!("option {key}: {value:?} is not a number it can take")))
}
