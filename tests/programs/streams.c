/* Writes known bytes to stdout and stderr in small and large pieces, with what a terminal could change among them, and says
 * whether they are terminals; then copies stdin to stdout. `streams crash` ends by a signal instead. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void put(int descriptor, const char *bytes, size_t length)
{
	while (length) {
		ssize_t n = write(descriptor, bytes, length);
		if (n <= 0)
			_exit(9);
		bytes += n;
		length -= n;
	}
}

int main(int argc, char **argv)
{
	static char block[100003];
	ssize_t n;

	(void)argv;
	put(1, isatty(1) ? "terminal\n" : "pipe\n", isatty(1) ? 9 : 5);
	put(2, isatty(2) ? "Terminal\r\n" : "Pipe\r\n", isatty(2) ? 10 : 6);
	put(1, "\xff\xfe\0\a\033[31mred\033[0m\ttab\r\n\x80", 24);
	for (size_t i = 0; i < sizeof(block); i++)
		block[i] = i % 97 == 96 ? '\n' : 'a' + i % 23;
	for (int i = 0; i < 5; i++)
		put(1, block, sizeof(block));
	put(2, block, 5003);
	while (!isatty(0) && (n = read(0, block, sizeof(block))) > 0)
		put(1, block, n);
	if (argc > 1)
		raise(SIGSEGV);
	return 7;
}
