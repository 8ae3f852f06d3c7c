//! The default model's real weights, its first layers: the whole model takes minutes on the emulator.

use std::path::{Path, PathBuf};

use tokenmill_models::{Cache, DEFAULT_MODEL, Dtype};

use crate::support::{Runner, argmax, cpu, cuda, fixtures, furthest, ids, json, lead, load};

/// Of its thirty.
const LAYERS: u64 = 3;
/// A logit may be off by so much.
const BOUND: f32 = 0.35;
/// Logits this near to each other may change places.
const TIE: f32 = 0.125;

/// A folder with the model's weights and a configuration of `layers` layers.
fn first_layers(layers: u64) -> PathBuf {
    let whole = match std::env::var_os("TOKENMILL_SMOLLM2") {
        Some(folder) => PathBuf::from(folder),
        None => Cache::from_env().unwrap().pull(DEFAULT_MODEL, Dtype::Bf16, &mut |_| {}).unwrap().path,
    };
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("smollm2-{layers}-layers"));
    std::fs::create_dir_all(&folder).unwrap();
    let mut config = json(&whole.join("config.json"));
    config["num_hidden_layers"] = layers.into();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let weights = folder.join("model.safetensors");
    let _ = std::fs::remove_file(&weights);
    std::os::unix::fs::symlink(whole.join("model.safetensors"), weights).unwrap();
    folder
}

#[test]
fn logits_and_greedy_tokens_are_those_of_the_cpu_backend() {
    let dir = first_layers(LAYERS);
    let prompt = ids(&json(&fixtures().join("smollm2/plain.json"))["prompt_ids"]);
    let mut cpu = Runner(load(&cpu(), &dir, &[0], 1, "context=1024"));
    let mut cuda = Runner(load(&cuda(), &dir, &[0], 1, "context=1024"));
    let last = [prompt.len() as u32 - 1];
    let (want, got) = (cpu.step(&prompt, 0, &last).remove(0), cuda.step(&prompt, 0, &last).remove(0));
    let off = furthest(&got, &want);
    println!("{LAYERS} layers, {} tokens: max |Δ logit| {off:.3}", prompt.len());
    assert!(off <= BOUND, "a logit is off by {off}");
    // One after the other, each from what was sampled before, on the device.
    let tokens = cuda.greedy(&prompt, 4);
    let mut text = prompt.clone();
    for token in tokens {
        let logits = cpu.step(&text, 0, &[text.len() as u32 - 1]).remove(0);
        assert!(
            token == argmax(&logits) || lead(&logits) < TIE,
            "after {text:?}: {token}, the CPU backend says {}",
            argmax(&logits)
        );
        text.push(token);
    }
}
