;; A plugin by hand: the core module of a component that keeps the contract to the letter. Tests replace the parts in
;; braces to build guests that do not.
;;
;; Memory: the descriptor at 64, an answer of zeros at 512 (from `authenticate`: no proofs), a batch at 768, texts from
;; 1024. What the host passes in lies from 4096, the batch's events, all zeros, from 65536.
(module
  (import "sendflowr:connector/logging@{contract}" "log" (func $log (param $level i32) (param $text i32) (param $length i32)))
  {imports}
  (memory $memory (export "memory") {memory})
  (global $free (mut i32) (i32.const 4096))
  {items}
  (data (i32.const 64) "{descriptor}")
  (data (i32.const 768) "{batch}")
  (data (i32.const 1024) "{texts}")

  (func $realloc (export "cabi_realloc")
    (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    {realloc})

  (func $describe (export "sendflowr:connector/plugin@{contract}#describe") (result i32)
    {describe})

  (func $authenticate (export "sendflowr:connector/plugin@{contract}#authenticate")
    (param $method i32) (param $method_length i32)
    (param $path i32) (param $path_length i32)
    (param $query i32) (param $query_length i32)
    (param $headers i32) (param $headers_length i32)
    (param $body i32) (param $body_length i32)
    (param $received i64)
    (param $settings i32) (param $settings_length i32)
    (param $secrets i32) (param $secrets_length i32)
    (result i32)
    {authenticate})

  (func $normalize (export "sendflowr:connector/plugin@{contract}#normalize")
    (param $method i32) (param $method_length i32)
    (param $path i32) (param $path_length i32)
    (param $query i32) (param $query_length i32)
    (param $headers i32) (param $headers_length i32)
    (param $body i32) (param $body_length i32)
    (param $received i64)
    (param $settings i32) (param $settings_length i32)
    (param $secrets i32) (param $secrets_length i32)
    (result i32)
    {normalize}))
