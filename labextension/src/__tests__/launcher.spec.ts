import type { ILauncher } from '@jupyterlab/launcher';
import { Signal } from '@lumino/signaling';
import { groupKernels } from '../launcher';

/**
 * What is used of JupyterLab's own, which is loaded with all of its dependencies.
 */
class Launcher {
  readonly stateChanged = new Signal<this, void>(this);
  private readonly _items: ILauncher.IItemOptions[] = [];

  items(): IterableIterator<ILauncher.IItemOptions> {
    return this._items[Symbol.iterator]();
  }

  add(kernelName: string, rank: number, kernel?: object): void {
    this._items.push({
      command: 'notebook:create-new',
      args: { kernelName },
      rank,
      metadata: kernel && ({ kernel } as ILauncher.IItemOptions['metadata'])
    });
    this.stateChanged.emit();
  }
}

describe('groupKernels', () => {
  it('ranks the kernels of sandboxes alike, whenever they come', () => {
    const launcher = new Launcher();
    launcher.add('vsandbox-spark-2.3', Infinity, { vsandbox: {} });
    groupKernels(launcher as unknown as ILauncher.IModel);
    launcher.add('python3', 0, {});
    launcher.add('ir', Infinity, { debugger: true });
    launcher.add('vsandbox-python-3.9', Infinity, { vsandbox: {} });
    launcher.add('terminal', 5);
    expect(
      [...launcher.items()].map(({ args, rank }) => [args?.kernelName, rank])
    ).toEqual([
      ['vsandbox-spark-2.3', 1],
      ['python3', 0],
      ['ir', Infinity],
      ['vsandbox-python-3.9', 1],
      ['terminal', 5]
    ]);
  });
});
