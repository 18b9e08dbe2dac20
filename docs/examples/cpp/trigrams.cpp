// A model of text: which letter follows two others? Each thread computes the gradient of
// some rows of a table and updates them at once, element by element: the gradient is
// never an array.
#include <cctype>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <vector>

#include <rmsprop_fast/rmsprop.h>

constexpr int LETTERS = 27;  // a to z, and 0 for all else

std::vector<int> read_letters(const char *path)
{
    std::vector<int> letters;
    std::ifstream file(path);
    for (char c; file.get(c);) {
        const int letter = std::isalpha(static_cast<unsigned char>(c))
                               ? std::tolower(static_cast<unsigned char>(c)) - 'a' + 1
                               : 0;
        if (letter != 0 || letters.empty() || letters.back() != 0)
            letters.push_back(letter);
    }
    return letters;
}

void softmax(const float *scores, double *chances)
{
    double total = 0;
    for (int j = 0; j < LETTERS; j++)
        total += chances[j] = std::exp(static_cast<double>(scores[j]));
    for (int j = 0; j < LETTERS; j++)
        chances[j] /= total;
}

// How many letters one would have to guess among.
double perplexity(const std::vector<float> &table, const std::vector<double> &counts)
{
    double loss = 0, total = 0, chances[LETTERS];
    for (std::size_t row = 0; row < table.size(); row += LETTERS) {
        softmax(&table[row], chances);
        for (int j = 0; j < LETTERS; j++) {
            loss -= counts[row + j] * std::log(chances[j]);
            total += counts[row + j];
        }
    }
    return std::exp(loss / total);
}

int main()
{
    const std::vector<int> text = read_letters("gettysburg.txt");
    constexpr int ROWS = LETTERS * LETTERS;
    std::vector<double> counts(ROWS * LETTERS), seen(ROWS);
    for (std::size_t k = 2; k < text.size(); k++) {
        const int row = text[k - 2] * LETTERS + text[k - 1];
        counts[row * LETTERS + text[k]] += 1;
        seen[row] += 1;
    }
    std::vector<float> table(ROWS * LETTERS), rms(ROWS * LETTERS);
    std::printf("%zu letters, perplexity %.2f\n", text.size(), perplexity(table, counts));

    // lr, rho, momentum, epsilon, keep, grad_scale, clip
    const rmsprop_coef_f32 c =
        rmsprop_coef_make_f32(0.05, 0.9, 0.0, 1e-7, 1.0, 1.0, HUGE_VAL);
    for (int epoch = 0; epoch < 100; epoch++) {
#pragma omp parallel for
        for (int row = 0; row < ROWS; row++) {
            double chances[LETTERS];
            softmax(&table[row * LETTERS], chances);
            for (int j = 0; j < LETTERS; j++) {
                const int at = row * LETTERS + j;
                const double grad = seen[row] * chances[j] - counts[at];
                rmsprop_update_f32(&table[at],
                                   rmsprop_grad_f32(static_cast<float>(grad), c),
                                   &rms[at], nullptr, nullptr, c, 0, 0, 1);
            }
        }
    }
    std::printf("after 100 steps %.2f\n", perplexity(table, counts));
    std::ofstream("table.bin", std::ios::binary)
        .write(reinterpret_cast<const char *>(table.data()),
               static_cast<std::streamsize>(table.size() * sizeof(float)));
}
