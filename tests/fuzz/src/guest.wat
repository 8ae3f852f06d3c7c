(module
  {{imports}}
  (memory (export "memory") 2)
  (global $heap (mut i32) (i32.const 4096))
  (global $wild (mut i32) (i32.const 0))   ;; what realloc answers, if not 0
  (global $stay (mut i32) (i32.const 0))   ;; handles are not given back
  (global $mask (mut i32) (i32.const 0))
  (global $pc (mut i32) (i32.const 0))     ;; of the next operation
  (global $end (mut i32) (i32.const 0))
  (func (export "cabi_realloc") (param $old i32) (param $from i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    (if (global.get $wild) (then (return (global.get $wild))))
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (local.get $at))
  (func $word (param $nth i32) (result i32)
    (i32.load (i32.add (global.get $pc) (i32.mul (local.get $nth) (i32.const 4)))))
  (func $either (param $word i32) (param $honest i32) (result i32)
    (select (local.get $word) (local.get $honest) (local.get $word)))
  (func $fetch (param $view i32)
    (global.set $heap (i32.const 4096))
    (global.set $stay (i32.const 0))
    {{read}}
    (global.set $pc (i32.load (i32.const {{at}})))
    (global.set $end (i32.add (global.get $pc) (i32.mul (i32.load (i32.const {{len}})) (i32.const 4)))))
  ;; Until the program says so, or ends.
  (func $run (param $view i32) (param $out i32) (param $logits i32) (result i32)
    (local $op i32)
    (loop $next
      (if (i32.gt_u (i32.add (global.get $pc) (i32.const 32)) (global.get $end)) (then (return (i32.const 16))))
      (local.set $op (i32.rem_u (i32.load8_u (global.get $pc)) (i32.add (i32.const {{count}}) (i32.const 1))))
      {{operations}}
      (global.set $pc (i32.add (global.get $pc) (i32.const 32)))
      (if (i32.eq (local.get $op) (i32.const {{count}})) (then (return (i32.const 16))))
      (br $next))
    (unreachable))
  {{hooks}})
