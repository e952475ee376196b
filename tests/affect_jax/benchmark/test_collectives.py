"""Collectives read from the text of compiled programs of several platforms."""

from affect_jax.benchmark.collectives import Collective, collectives, host_calls

TEXT = """
  %all-reduce.1 = f32[4,8]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
  %r = (f32[2]{0}, bf16[3]{0}) all-reduce(%a, %b), to_apply=%add
  %start = f32[16]{0:T(128)} all-reduce-start(%c), channel_id=2
  %done = f32[16]{0:T(128)} all-reduce-done(%start)
  %gather = u8[16,32,32,3]{3,2,1,0} all-gather(%images), dimensions={0}
  %many = (f32[9]{0}, f32[], f32[], f32[], f32[], /*index=5*/f32[]) all-reduce(%a, %b, %c)
  %sum = f32[] add(%p, %q), metadata={op_name="all-reduce(x)"}
"""


def test_kinds_and_bytes():
    assert collectives(TEXT) == [
        Collective("all-reduce", 128),
        Collective("all-reduce", 14),
        Collective("all-reduce", 64),
        Collective("all-gather", 16 * 32 * 32 * 3),
        Collective("all-reduce", 4 * 14),
    ]


def test_calls_of_the_host():
    line = 'custom-call(%x), custom_call_target="xla_ffi_python_cpu_callback", api_version=4'
    assert host_calls(f"%y = f32[] {line}\n%t = token[] outfeed(%y)") != []
    assert len(host_calls(f"%y = f32[] {line}\n%t = token[] outfeed(%y)")) == 2
    assert host_calls(TEXT) == []
