//! Linear layers: every kernel, every kind of output, ragged edges, split K.

use tokenmill_backend_model::device::Dtype;
use tokenmill_cuda::Gpu;
use tokenmill_cuda::buffer::{Buffer, Vector, Weight};
use tokenmill_cuda::ops::linear::{
    self, F32, LARGE, Library, Plan, SMALL, Tile, Workspace, linear, linear_by,
};

use crate::support::{self, Random, assert_close, rounded};

/// A layer, and where its outputs go.
#[derive(Clone, Copy, Debug)]
struct Case {
    dtype: Dtype,
    out: Dtype,
    m: usize,
    n: usize,
    k: usize,
    bias: bool,
    /// Columns of the output before and behind the layer's.
    column: usize,
    behind: usize,
}

/// What columns that are not the layer's hold.
const KEPT: f32 = 9.0;

struct Operands {
    x: Vec<f32>,
    w: Vec<f32>,
    bias: Option<Vec<f32>>,
}

impl Case {
    fn operands(&self, random: &mut Random) -> Operands {
        Operands {
            x: rounded(self.dtype, &random.numbers(self.m * self.k)),
            w: rounded(self.dtype, &random.numbers(self.n * self.k)),
            bias: self.bias.then(|| random.numbers(self.n)),
        }
    }

    fn cols(&self) -> usize {
        self.column + self.n + self.behind
    }

    /// All of the output's rows as `plan`, or the choice for these shapes, computes them.
    fn run(&self, gpu: &Gpu, workspace: &Workspace, plan: Option<Plan>, operands: &Operands) -> Vec<f32> {
        let (x, weight, bias, mut out) = self.upload(gpu, operands);
        let bias = bias.as_ref();
        match plan {
            Some(plan) => {
                linear_by(plan, gpu, workspace, &x, &weight, bias, &mut out, self.column).unwrap();
            }
            None => linear(gpu, workspace, &x, &weight, bias, &mut out, self.column).unwrap(),
        }
        assert_eq!(out.rows(), self.m);
        support::values(gpu, &out)
    }

    fn upload(&self, gpu: &Gpu, operands: &Operands) -> (Buffer, Weight, Option<Vector>, Buffer) {
        (
            support::buffer(gpu, self.dtype, self.k, &operands.x),
            support::weight(gpu, self.dtype, self.n, self.k, &operands.w),
            operands.bias.as_ref().map(|bias| support::vector(gpu, bias)),
            support::buffer(gpu, self.out, self.cols(), &vec![KEPT; self.m * self.cols()]),
        )
    }

    fn want(&self, operands: &Operands) -> Vec<f64> {
        let mut want = vec![f64::from(KEPT); self.m * self.cols()];
        for (x, out) in operands.x.chunks_exact(self.k).zip(want.chunks_exact_mut(self.cols())) {
            let rows = operands.w.chunks_exact(self.k).zip(&mut out[self.column..]);
            for (n, (w, out)) in rows.enumerate() {
                let products = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
                *out = products.sum::<f64>() + operands.bias.as_ref().map_or(0.0, |bias| f64::from(bias[n]));
            }
        }
        want
    }

    fn check(&self, gpu: &Gpu, workspace: &Workspace, plan: Option<Plan>, random: &mut Random) {
        let operands = self.operands(random);
        let got = self.run(gpu, workspace, plan, &operands);
        let what = match plan {
            Some(plan) => format!("{self:?} by {} in {}", plan.tile.names[0], plan.splits),
            None => format!("{self:?}"),
        };
        assert_close(&what, &got, &self.want(&operands), self.scale(), self.tolerance());
    }

    /// Of sums of products of numbers between -1 and 1.
    fn scale(&self) -> f64 {
        (self.k as f64).sqrt() / 3.0
    }

    /// Half a unit in the last place of what is stored, or what tensor cores lose as they add in f32.
    fn tolerance(&self) -> f64 {
        match (self.dtype, self.out) {
            (_, Dtype::Bf16) => 4e-3,
            (_, Dtype::F16) => 6e-4,
            (Dtype::F32, _) => 1e-5,
            _ => 1e-4,
        }
    }
}

fn setup() -> (Gpu, Workspace) {
    let gpu = support::gpu();
    let workspace = Workspace::new(&gpu).unwrap();
    (gpu, workspace)
}

/// Kernels for 16-bit weights that run here.
fn tiles(gpu: &Gpu) -> impl Iterator<Item = &'static Tile> {
    let shared = gpu.properties().shared;
    SMALL.iter().chain(&LARGE).filter(move |tile| tile.shared <= shared)
}

#[test]
fn every_kernel_equals_f64_with_ragged_edges_and_split_k() {
    let (gpu, workspace) = setup();
    let mut random = Random(1);
    for (index, tile) in tiles(&gpu).enumerate() {
        let small = SMALL.contains(tile);
        for case in 0..8 {
            let splits = [1, 3, 2, 4][case % 4];
            let dtype = [Dtype::Bf16, Dtype::F16][(case / 2 + index) % 2];
            let out = [Dtype::F32, dtype][(case + index / 2) % 2];
            let (m, n) = (tile.m as usize, tile.n as usize);
            // A tile and a bit, or a bit less than a tile; small kernels have one tile of rows.
            let m = if case < 4 { m - m / 4 - 1 } else { m + if small { 0 } else { 5 } };
            let n = if case % 2 == 0 { n + 3 } else { 2 * n - 8 };
            // K ends within a stage, or is a whole number of them; splits have unequal parts.
            let k = [8, 328, 192, 456][(case + case / 4) % 4];
            let (column, behind) = [(0, 0), (8, 5), (1, 2)][case % 3];
            let case = Case { dtype, out, m, n, k, bias: case % 3 != 1, column, behind };
            case.check(&gpu, &workspace, Some(Plan { tile, splits }), &mut random);
        }
    }
}

#[test]
fn f32_is_exact_to_f32_with_every_kernel() {
    let (gpu, workspace) = setup();
    let mut random = Random(2);
    for tile in &F32 {
        for (case, k) in [4, 132, 260].into_iter().enumerate() {
            let (m, n) = (tile.m as usize + 3, tile.n as usize + 7 * case);
            let case = Case {
                dtype: Dtype::F32,
                out: Dtype::F32,
                m,
                n,
                k,
                bias: case != 1,
                column: case,
                behind: case % 2,
            };
            case.check(&gpu, &workspace, Some(Plan { tile, splits: 1 }), &mut random);
        }
    }
}

#[test]
fn the_kernel_chosen_for_any_number_of_rows_is_right() {
    let (gpu, workspace) = setup();
    let mut random = Random(3);
    for dtype in support::DTYPES {
        for (case, m) in [1, 2, 3, 5, 8, 9, 16, 17, 33, 64, 65, 130].into_iter().enumerate() {
            let out = if case % 2 == 0 { Dtype::F32 } else { dtype };
            let (n, k) = [(40, 264), (203, 1048), (129, 72)][case % 3];
            let case = Case { dtype, out, m, n, k, bias: case % 2 == 1, column: 0, behind: 0 };
            case.check(&gpu, &workspace, None, &mut random);
        }
    }
}

/// Blocks run in another order each time; whichever ends last adds the parts in the same order.
#[test]
fn the_same_bits_come_out_every_time() {
    let (gpu, workspace) = setup();
    let mut random = Random(4);
    for tile in tiles(&gpu) {
        let (m, n) = (tile.m as usize, tile.n as usize + 8);
        let case =
            Case { dtype: Dtype::Bf16, out: Dtype::F32, m, n, k: 712, bias: false, column: 0, behind: 0 };
        let operands = case.operands(&mut random);
        let plan = Some(Plan { tile, splits: 5 });
        let first: Vec<u32> = bits(&case.run(&gpu, &workspace, plan, &operands));
        for _ in 0..3 {
            assert_eq!(bits(&case.run(&gpu, &workspace, plan, &operands)), first, "{}", tile.names[0]);
        }
    }
}

#[test]
fn a_row_does_not_depend_on_the_rows_beside_it() {
    let (gpu, workspace) = setup();
    let mut random = Random(5);
    for tile in tiles(&gpu).chain(&F32) {
        let dtype = if F32.contains(tile) { Dtype::F32 } else { Dtype::F16 };
        let m = tile.m as usize;
        let case = Case { dtype, out: Dtype::F32, m, n: 21, k: 136, bias: true, column: 0, behind: 0 };
        let operands = case.operands(&mut random);
        let splits = if dtype == Dtype::F32 { 1 } else { 2 };
        let plan = Some(Plan { tile, splits });
        let alone = bits(&case.run(&gpu, &workspace, plan, &operands));
        let row = random.below(m);
        let mut x = vec![f32::NAN; m * case.k];
        x[row * case.k..][..case.k].copy_from_slice(&operands.x[row * case.k..][..case.k]);
        let beside = bits(&case.run(&gpu, &workspace, plan, &Operands { x, ..operands }));
        let of_row = row * case.n..(row + 1) * case.n;
        assert_eq!(beside[of_row.clone()], alone[of_row], "row {row} by {}", tile.names[0]);
    }
}

/// Rows beyond the step are stale: neither read into its rows nor written.
#[test]
fn rows_beyond_the_last_are_left_alone() {
    let (gpu, workspace) = setup();
    let mut random = Random(6);
    for (m, dtype) in [(3, Dtype::Bf16), (70, Dtype::Bf16), (5, Dtype::F32), (70, Dtype::F32)] {
        let case = Case { dtype, out: Dtype::F32, m, n: 37, k: 64, bias: false, column: 0, behind: 0 };
        let mut operands = case.operands(&mut random);
        let want = case.want(&operands);
        operands.x.resize((m + 8) * case.k, f32::NAN);
        let mut x = support::buffer(&gpu, dtype, case.k, &operands.x);
        x.set_rows(m);
        let weight = support::weight(&gpu, dtype, case.n, case.k, &operands.w);
        let mut out = support::buffer(&gpu, case.out, case.n, &vec![KEPT; (m + 8) * case.n]);
        linear(&gpu, &workspace, &x, &weight, None, &mut out, 0).unwrap();
        out.set_rows(m + 8);
        let got = support::values(&gpu, &out);
        assert_close("rows of the step", &got[..m * case.n], &want, case.scale(), case.tolerance());
        assert!(got[m * case.n..].iter().all(|v| *v == KEPT), "{m} rows of {dtype:?}");
    }
}

#[test]
fn no_rows_are_no_launch() {
    let (gpu, workspace) = setup();
    for dtype in support::DTYPES {
        let mut x = support::empty(&gpu, dtype, 4, 16);
        x.set_rows(0);
        let weight = support::weight(&gpu, dtype, 24, 16, &[1.0; 24 * 16]);
        let mut out = support::empty(&gpu, Dtype::F32, 4, 24);
        linear(&gpu, &workspace, &x, &weight, None, &mut out, 0).unwrap();
        assert_eq!(out.rows(), 0);
        assert_eq!(linear::layer(&x, &weight).m, 0);
    }
}

/// Its own results are checked where it is installed.
#[test]
fn cublaslt_is_used_where_it_is_installed_and_missed_by_name_where_not() {
    let gpu = support::gpu();
    assert!("tf32".parse::<Library>().unwrap_err().to_string().contains("own, cublaslt, auto"));
    if let Err(missing) = Workspace::with(&gpu, "cublaslt".parse().unwrap()) {
        assert!(missing.to_string().to_lowercase().contains("cublaslt"), "{missing}");
    }
    let workspace = Workspace::with(&gpu, "auto".parse().unwrap()).unwrap();
    let mut random = Random(7);
    for (dtype, out) in [(Dtype::Bf16, Dtype::Bf16), (Dtype::F16, Dtype::F32)] {
        let case = Case { dtype, out, m: 256, n: 136, k: 72, bias: false, column: 0, behind: 0 };
        case.check(&gpu, &workspace, None, &mut random);
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}
