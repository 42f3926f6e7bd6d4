"""Compiles a CUDA file by NVRTC: `python nvrtc_program.py LIBRARY FILE OPTION...`.

The machine code goes to standard output, what the compiler says to standard error. It is a program of its own, without torch, so
that it can be interrupted, may run several times at once, and gives back its memory.
"""
import ctypes
import sys
from ctypes import byref, c_char_p, c_size_t, c_void_p
from pathlib import Path


def main(library: str, file: str, *options: str) -> int:
    for part in Path(library).parent.glob('libnvrtc-builtins*'):        # NVRTC asks for it by name only.
        if '.alt.' not in part.name:
            ctypes.CDLL(str(part), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(library)
    nvrtc.nvrtcGetErrorString.restype = c_char_p
    program, texts = c_void_p(), (c_char_p * len(options))(*map(str.encode, options))
    error = nvrtc.nvrtcCreateProgram(byref(program), Path(file).read_bytes(), Path(file).name.encode(), 0, None, None)
    error = error or nvrtc.nvrtcCompileProgram(program, len(options), texts)
    if error:
        sys.stderr.write(_result(nvrtc, program, 'ProgramLog').rstrip(b'\0').decode(errors='replace'))
        sys.stderr.write(f'\nerror: {nvrtc.nvrtcGetErrorString(error).decode()}\n')
        return 1
    sys.stdout.buffer.write(_result(nvrtc, program, 'CUBIN'))
    return 0


def _result(nvrtc, program, name):
    size = c_size_t()
    if getattr(nvrtc, f'nvrtcGet{name}Size')(program, byref(size)):
        return b''
    content = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f'nvrtcGet{name}')(program, content)
    return content.raw


if __name__ == '__main__':
    sys.exit(main(*sys.argv[1:]))
