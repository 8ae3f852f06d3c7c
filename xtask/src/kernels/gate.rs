//! The resource gate: no spills, no local memory, registers that allow the intended blocks, matrix
//! instructions where they are intended; and the table of what each kernel takes.

use super::{
    intent::{INTENTS, Intent, SHOWN},
    manifest::{Kernel, Manifest, Resources},
    occupancy::Multiprocessor,
    sass::Disassembler,
};
use anyhow::{Result, bail};
use std::collections::BTreeMap;

/// Prints the table, and fails with everything that is wrong.
pub(super) fn check(manifest: &mut Manifest) -> Result<()> {
    let unchecked = disassemble(manifest)?;
    print!("{}", table(manifest));
    let faults = faults(manifest);
    for fault in &faults {
        println!("FAULT {fault}");
    }
    if let Some(why) = unchecked {
        println!("instructions were NOT checked, for want of a disassembler: {why}");
    }
    if !faults.is_empty() {
        bail!("{} faults in the kernels", faults.len());
    }
    println!("no spills, no local memory, registers within the launch bounds");
    Ok(())
}

/// Counts the instructions of images that have none counted. Without a disassembler: why there is none.
fn disassemble(manifest: &mut Manifest) -> Result<Option<String>> {
    let is_new = |kernel: &Kernel| kernel.resources.is_some() && kernel.instructions.is_none();
    if !manifest.images.iter().flat_map(|image| &image.kernels).any(is_new) {
        return Ok(None);
    }
    let disassembler = match Disassembler::find() {
        Ok(found) => found,
        Err(error) => return Ok(Some(format!("{error:#}"))),
    };
    for image in manifest.images.iter_mut().filter(|image| image.kernels.iter().any(is_new)) {
        let mut counts = disassembler.count(&image.path())?;
        for kernel in &mut image.kernels {
            kernel.instructions = counts.remove(&kernel.name);
        }
    }
    manifest.write()?;
    Ok(None)
}

/// Everything that is wrong, one text each; what is wrong on several architectures is told once.
fn faults(manifest: &Manifest) -> Vec<String> {
    let mut places: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for image in &manifest.images {
        let mut add = |of, fault| places.entry((of, fault)).or_default().push(&image.arch);
        image.warnings.iter().for_each(|warning| add(image.stem(), warning.clone()));
        if image.kernels.is_empty() {
            add(image.stem(), "no kernel was found in it".to_owned());
        }
        for kernel in image.kernels.iter().filter(|_| image.is_machine_code()) {
            of_kernel(kernel, &image.arch).into_iter().for_each(|fault| add(&kernel.name, fault));
        }
    }
    let mut faults: Vec<String> = places
        .into_iter()
        .map(|((of, fault), archs)| format!("{of} ({}): {fault}", archs.join(", ")))
        .collect();
    for intent in INTENTS {
        let mut kernels = manifest.images.iter().flat_map(|image| &image.kernels);
        if !kernels.any(|kernel| intent.is_for(&kernel.name)) {
            faults
                .push(format!("no kernel is called {}…: the table of intents is out of date", intent.prefix));
        }
    }
    faults
}

fn of_kernel(kernel: &Kernel, arch: &str) -> Vec<String> {
    let Some(used) = kernel.resources else { return vec!["the compiler reported nothing of it".to_owned()] };
    let mut faults = Vec::new();
    let Resources { registers, stack, spill_stores, spill_loads, .. } = used;
    if spill_stores + spill_loads > 0 {
        faults.push(format!("spills: {spill_stores} bytes stored, {spill_loads} loaded"));
    } else if stack > 0 {
        faults.push(format!("{stack} bytes of local memory"));
    }
    if kernel.bounds.threads == 0 {
        faults.push("no launch bounds".to_owned());
    } else {
        let allowed = Multiprocessor::of(arch).blocks_by_registers(registers, kernel.bounds.threads);
        if allowed < kernel.bounds.blocks {
            faults.push(format!(
                "{registers} registers allow {allowed} blocks per multiprocessor, {} are intended",
                kernel.bounds.blocks
            ));
        }
    }
    let Some(found) = &kernel.instructions else { return faults };
    let intended = Intent::of(&kernel.name).map_or(&[][..], |intent| intent.instructions);
    for missing in intended.iter().filter(|name| !found.contains_key(**name)) {
        faults.push(format!("no {missing} where it is intended"));
    }
    // The compiler's report and its code should agree.
    let is_local = |name: &&&str| found.contains_key(**name) && stack + spill_stores + spill_loads == 0;
    for local in ["LDL", "STL"].iter().filter(is_local) {
        faults.push(format!("{local}: it uses local memory"));
    }
    faults
}

/// A line per kernel and what it takes; architectures for which it takes the same share one.
fn table(manifest: &Manifest) -> String {
    let mut rows: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for image in manifest.images.iter().filter(|image| image.is_machine_code()) {
        for kernel in &image.kernels {
            let arch = image.arch.trim_start_matches("sm_");
            rows.entry((&kernel.name, row(kernel, &image.arch))).or_default().push(arch);
        }
    }
    let mut text = format!(
        "{:<44} {:>9} {:>7} {:>6} {:>6}  {:<16} instructions\n",
        "kernel", "registers", "shared", "spills", "blocks", "sm"
    );
    for ((name, row), archs) in rows {
        let (figures, instructions) = row.split_once('|').unwrap_or((&row, ""));
        text += &format!("{name:<44} {figures}  {:<16} {instructions}\n", archs.join(" "));
    }
    text
}

/// The figures of a kernel, and after a bar its instructions.
fn row(kernel: &Kernel, arch: &str) -> String {
    let used = kernel.resources.unwrap_or_default();
    let blocks = Multiprocessor::of(arch).blocks(used.registers, kernel.bounds.threads);
    let count = |name: &&str| kernel.instructions.as_ref()?.get(*name).map(|count| format!("{name} {count}"));
    let instructions: Vec<String> = SHOWN.iter().filter_map(count).collect();
    let spills = used.spill_stores + used.spill_loads;
    format!("{:>9} {:>7} {spills:>6} {blocks:>6}|{}", used.registers, used.shared, instructions.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::manifest::Bounds;

    fn kernel(name: &str, used: Resources, instructions: &[&str]) -> Kernel {
        Kernel {
            name: name.to_owned(),
            bounds: Bounds { threads: 256, blocks: 2 },
            resources: Some(used),
            instructions: Some(instructions.iter().map(|name| (name.to_string(), 1)).collect()),
        }
    }

    const GOOD: Resources =
        Resources { registers: 128, shared: 0, stack: 0, spill_stores: 0, spill_loads: 0 };

    #[test]
    fn a_kernel_as_intended_has_no_faults() {
        let good = kernel("gemm_bf16", GOOD, &["HMMA", "LDSM", "LDGSTS"]);
        assert_eq!(of_kernel(&good, "sm_80"), Vec::<String>::new());
    }

    #[test]
    fn spills_local_memory_and_too_many_registers_are_faults() {
        let all = ["HMMA", "LDSM", "LDGSTS"];
        let cases = [
            (Resources { spill_stores: 4, stack: 8, ..GOOD }, "spills: 4 bytes stored, 0 loaded"),
            (Resources { stack: 8, ..GOOD }, "8 bytes of local memory"),
            (
                Resources { registers: 136, ..GOOD },
                "136 registers allow 1 blocks per multiprocessor, 2 are intended",
            ),
        ];
        for (used, fault) in cases {
            assert_eq!(of_kernel(&kernel("gemm_bf16", used, &all), "sm_90a"), [fault]);
        }
    }

    #[test]
    fn matrix_instructions_that_are_missing_and_local_loads_are_faults() {
        let faults = of_kernel(&kernel("gemm_f16", GOOD, &["HMMA", "LDGSTS", "LDL"]), "sm_80");
        assert_eq!(faults, ["no LDSM where it is intended", "LDL: it uses local memory"]);
        assert!(of_kernel(&kernel("gemm_f32", GOOD, &["FFMA"]), "sm_80").is_empty());
    }

    #[test]
    fn a_kernel_the_compiler_says_nothing_of_is_a_fault() {
        let silent = Kernel { resources: None, ..kernel("gate_mul_bf16", GOOD, &[]) };
        assert_eq!(of_kernel(&silent, "sm_80").len(), 1);
    }
}
