//! Says whether a text carries the watermark of `plugins/watermark`.
//!
//! Reads token ids from its input, separated by anything that is no digit: what a completion with
//! `"return_token_ids": true` gives as `token_ids`, or a tokenizer of the same model as `input_ids`.
//!
//!     echo '[17, 4, 233, …]' | watermark-detector KEY [GAMMA]
//!
//! Above a z of 4 chance gives such a text once in 30,000: the paper's threshold.
#![forbid(unsafe_code)]

use std::io::Read;
use std::process::ExitCode;

use tokenmill_plugin_watermark::detect;

fn main() -> ExitCode {
    match run() {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("watermark-detector: {why}\nusage: watermark-detector KEY [GAMMA] < TOKEN-IDS");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<String, String> {
    let mut args = std::env::args().skip(1);
    let key = args.next().ok_or("no key")?.parse().map_err(|_| "the key is not a number")?;
    let gamma = args.next().map_or(Ok(0.25), |text| text.parse()).map_err(|_| "gamma is not a number")?;
    if !(gamma > 0.0 && gamma < 1.0) {
        return Err("gamma must be between 0 and 1".into());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|error| error.to_string())?;
    let ids = text.split(|c: char| !c.is_ascii_digit()).filter(|id| !id.is_empty()).map(str::parse);
    let tokens = ids.collect::<Result<Vec<u32>, _>>().map_err(|_| "a token id is too large")?;
    let found = detect(&tokens, key, gamma).ok_or("it takes two tokens at least")?;
    Ok(format!("pairs {} green {} z {:.2} p {:.3e}", found.pairs, found.green, found.z, found.p))
}
