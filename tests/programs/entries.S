# Functions by what their entry block is made of; tests/unit/test_placement.py says where a probe belongs in each.
	.intel_syntax noprefix
	.text
	.macro function name
	.globl \name
	.type \name, @function
\name:
	.endm
	.macro done name
	.size \name, . - \name
	.endm

function nop_after_push		# the 5-byte nop is cheaper still
	push rbp
	.byte 0x0f, 0x1f, 0x44, 0x00, 0x00
	pop rbp
	ret
done nop_after_push

function jump_after_test	# as gcc begins a dot product
	test edi, edi
	jle 1f
	push rbx
	pop rbx
1:	ret
done jump_after_test

function loop_after_mov		# what is cheap is in a loop: only the first instruction runs once
	mov eax, edi
1:	dec eax
	jne 1b
	ret
done loop_after_mov

function loop_at_entry
	dec edi
	jne loop_at_entry
	ret
done loop_at_entry

function argument_lost		# rdi is another by then, and 8 bytes are pushed
	sub rsp, 8
	mov edi, 1
	call jump_after_test
	add rsp, 8
	ret
done argument_lost

function locked			# no probe is allowed at the first one
	lock inc dword ptr [rdi]
	push rbx
	pop rbx
	ret
done locked

function only_locked
	lock inc dword ptr [rdi]
	ret
done only_locked

function table_behind_entry	# the table leads to the jump that follows the first two instructions
	mov eax, edi
	cmp eax, 5
1:	ja 2f
	lea rdx, [rip + 3f]
	movsxd rcx, dword ptr [rdx + rax * 4]
	add rcx, rdx
	jmp rcx
2:	ret
	.section .rodata
	.balign 4
3:	.long 1b - 3b
	.long 2b - 3b
	.text
done table_behind_entry

function marked			# endbr64 itself is single-stepped
	endbr64
	push r12
	pop r12
	ret
done marked

function early_return		# what comes after the push cannot lead before it, wherever it leads
	mov eax, dword ptr [rsi + 80]
	test eax, eax
	jne 1f
	ret
1:	push rbx
	pop rbx
	jmp rax
done early_return

function jump_before_frame	# but this may
	mov eax, edi
	test eax, eax
	jne 1f
	jmp rsi
1:	push rbx
	pop rbx
	ret
done jump_before_frame

	.section .note.GNU-stack, "", @progbits
