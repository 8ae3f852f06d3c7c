;; A scheduler that orders nothing. Tests put hostile code where it says {{...}}.
;; Memory: 16 the answer "ok", 64 what getters return, 96 scratch, 4096 heap.
(module
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.now-us" (func $now_us (param i32) (result i64)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.pending" (func $pending (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]view.ids" (func $ids (param i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]order.run" (func $run (param i32 i32 i32 i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[method]order.reject" (func $reject (param i32 i32 i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[resource-drop]view" (func $drop_view (param i32)))
  (import "tokenmill:policy/schedule-host@0.1.0" "[resource-drop]order" (func $drop_order (param i32)))
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 4096))
  (func (export "cabi_realloc") (param $old i32) (param $from i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func (export "tokenmill:policy/scheduler@0.1.0#configure") (param $text i32) (param $len i32) (result i32)
    {{configure}}
    (i32.const 16))
  (func (export "tokenmill:policy/scheduler@0.1.0#plan") (param $view i32) (param $out i32) (result i32)
    (local $a i32) (local $b i32)
    (global.set $heap (i32.const 4096))
    {{plan}}
    (call $drop_view (local.get $view))
    (call $drop_order (local.get $out))
    (i32.const 16))
  {{more}})
